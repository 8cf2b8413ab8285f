"""The Unix socket that clients connect to, made with the right mode in a folder that is not everybody's."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from typing import TYPE_CHECKING

from shared.errors import Conflict, StorageError

if TYPE_CHECKING:
    from pathlib import Path

SOCKET_MODE = 0o660
"""Mode of the socket: its group may connect, and is then asked for its uid."""

FOLDER_MODE = 0o750
"""Mode of the socket's folder if it is made here."""

_BACKLOG = 64
_UCRED = struct.Struct("3i")


def listen(path: Path) -> socket.socket:
    """Return a listening socket at ``path``.

    A socket that nobody answers on is what a killed CPM left, and is replaced.

    Args:
        path: The socket's file name; its folder is made if it is missing.

    Raises:
        Conflict: ``socket_taken``; somebody answers there, or it is no socket.
        StorageError: ``socket_exposed`` if others own its folder or may write to it; ``socket_failed``.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        _prepare_folder(path.parent)
        _remove_stale(path)
        before = os.umask(0o777 & ~SOCKET_MODE)  # the mode holds from the first moment on
        try:
            listener.bind(str(path))
        finally:
            os.umask(before)
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise StorageError(
            f"cannot listen on {path}: {error.strerror or error}", code="socket_failed"
        ) from error
    except BaseException:
        listener.close()
        raise
    return listener


def _prepare_folder(folder: Path) -> None:
    if not folder.exists():
        folder.mkdir(parents=True)
        folder.chmod(FOLDER_MODE)
    status = folder.stat()
    if stat.S_IMODE(status.st_mode) & stat.S_IWOTH:
        raise StorageError(
            f"{folder}: expected a folder that not everybody may write to", code="socket_exposed"
        )
    # Whoever owns the folder, or a link in its place, could put a socket of their own where clients look.
    for owner in (status.st_uid, folder.lstat().st_uid):
        if owner not in {0, os.geteuid()}:
            raise StorageError(
                f"{folder}: expected a folder of user {os.geteuid()} or root, found user {owner}",
                code="socket_exposed",
            )


def _remove_stale(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise Conflict(f"{path} exists and is no socket", code="socket_taken")
    if _somebody_answers(path):
        raise Conflict(f"another process answers on {path}", code="socket_taken")
    path.unlink()


def _somebody_answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return False
    return True


def unlisten(listener: socket.socket, path: Path) -> None:
    """Close the listener and remove its socket file, so that clients see at once that nobody is there."""
    listener.close()
    with contextlib.suppress(OSError):
        path.unlink()


def peer_uid(connection: socket.socket) -> int:
    """Return the user on the other end, as the kernel saw it when it connected."""
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _pid, uid, _gid = _UCRED.unpack(credentials)
    return int(uid)

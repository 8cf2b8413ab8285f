"""Files of the state folder: replaced atomically, for their owner only, every fault a StorageError."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING

from shared.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PRIVATE_FILE = 0o600
"""Mode of every file that the CPM writes."""

PRIVATE_FOLDER = 0o700
"""Mode of every folder that the CPM makes."""

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class NotKnownToLast(StorageError):
    """A file was replaced, and the disk did not confirm it: a power cut may leave the old bytes or the new.

    Whoever gets this must leave in place all that either of them refers to.
    """

    default_code = "storage_failed"


def leaves_old_file(error: BaseException) -> bool:
    """Whether a failed write surely left the old file; after any other error the new one may be there."""
    return isinstance(error, StorageError) and not isinstance(error, NotKnownToLast)


@contextlib.contextmanager
def storage_errors(action: str) -> Iterator[None]:
    """Turn what the disk refuses into a StorageError.

    Args:
        action: What is being done, for the message; never a key, never a payload.

    Raises:
        StorageError: ``storage_full`` if there is no room, else ``storage_failed``.
    """
    try:
        yield
    except OSError as error:
        code = "storage_full" if error.errno in _FULL else "storage_failed"
        raise StorageError(f"{action}: {error.strerror or error}", code=code) from error


def sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` last through a power cut."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write every byte; ``os.write`` may write fewer."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def write_atomically(path: Path, data: bytes) -> None:
    """Replace the file at ``path``: after a crash it holds the old bytes or the new ones, whole.

    Only one writer a file at a time; the CPM's lock on its state folder sees to that.

    Raises:
        NotKnownToLast: The file is replaced, and the disk refused to confirm it.
        StorageError: The disk refused; the old file is untouched.
    """
    draft = path.with_name(f".{path.name}.new")
    with storage_errors(f"cannot write {path}"):
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, PRIVATE_FILE)
        try:
            write_all(fd, data)
            os.fsync(fd)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
        finally:
            os.close(fd)
        draft.replace(path)
    try:
        sync_folder(path.parent)
    except OSError as error:
        raise NotKnownToLast(f"cannot confirm {path}: {error.strerror or error}") from error


def read_private(path: Path, *, most: int) -> bytes | None:
    """Return a private file's bytes, or None if there is no such file.

    Args:
        path: The file.
        most: Longest content that is read, in bytes.

    Raises:
        StorageError: ``state_damaged`` if it is longer, or no regular file; ``state_exposed`` if it is
            another user's, or group or others have any right to it; ``storage_failed`` if it cannot be read.
    """
    with storage_errors(f"cannot read {path}"):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        with os.fdopen(fd, "rb") as file:
            status = os.fstat(fd)
            _check_private(path, status)
            if status.st_size > most:
                raise StorageError(
                    f"{path}: expected at most {most} bytes, found {status.st_size}", code="state_damaged"
                )
            return file.read(most)


def _check_private(path: Path, status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise StorageError(f"{path}: expected a regular file", code="state_damaged")
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077:
        raise StorageError(
            f"{path}: expected a file of user {os.geteuid()} with mode 0600, "
            f"found user {status.st_uid} and mode {stat.S_IMODE(status.st_mode):04o}",
            code="state_exposed",
            hint="others may have read or changed it; start with an empty state folder",
        )


def prepare_folder(folder: Path) -> None:
    """Make the folder if it is missing, so that it lasts, and refuse one that others may write to.

    Raises:
        StorageError: ``state_exposed``, or the disk refused.
    """
    with storage_errors(f"cannot use {folder}"):
        _make_folder(folder)
        status = folder.stat()
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o022:
        raise StorageError(
            f"{folder}: expected a folder of user {os.geteuid()} that nobody else may write to, "
            f"found user {status.st_uid} and mode {stat.S_IMODE(status.st_mode):04o}",
            code="state_exposed",
        )


def _make_folder(folder: Path) -> None:
    """Make the folder and those above it; one that is not known to last is taken back."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(mode=PRIVATE_FOLDER)
    try:
        sync_folder(folder.parent)
    except OSError:
        folder.rmdir()
        raise

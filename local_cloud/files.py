"""Files that are either wholly written or not there: write beside, flush, rename, flush the folder."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

from shared.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path

PRIVATE = 0o600
"""Mode of a file that holds a private key or a shared access key."""

PUBLIC = 0o644
"""Mode of a file that anybody on the machine may read."""


def write_atomically(path: Path, data: bytes, *, mode: int = PUBLIC) -> None:
    """Replace ``path`` with ``data``; a reader sees the old file or the new one, and so does a restart.

    The file has ``mode`` from the moment it exists, so a private key is never readable in between.

    Args:
        path: The file; its folder exists.
        data: All of its bytes.
        mode: Permission bits, such as :data:`PRIVATE`.

    Raises:
        StorageError: The disk refused; nothing was changed and nothing is left behind.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        try:
            handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            with os.fdopen(handle, "wb") as file:
                os.fchmod(handle, mode)  # whatever the process's umask took away or left
                file.write(data)
                file.flush()
                os.fsync(handle)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        _flush_folder(path.parent)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error


def _flush_folder(folder: Path) -> None:
    """Make a rename in ``folder`` last over a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

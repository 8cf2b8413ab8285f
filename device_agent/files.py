"""Small files that are replaced whole: a reader finds the old or the new content, after a crash too."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from shared.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path

PRIVATE = 0o600
PUBLIC = 0o644


def replace_file(path: Path, data: bytes, *, mode: int = PRIVATE, durable: bool = True) -> None:
    """Replace a file: write beside it, fsync, rename, fsync of the folder.

    Args:
        path: The file; its folder must be there.
        data: All that it is to hold.
        mode: Who may read it.
        durable: Whether it must outlive a power cut; what lies in a memory file system need not.

    Raises:
        StorageError: The disk refused; what stood there before still does.
    """
    staged = path.with_name(f"{path.name}.new")
    try:
        # Removed first and made anew: a file or a link that somebody put there is not written through.
        staged.unlink(missing_ok=True)
        fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, mode)
            file.write(data)
            file.flush()
            if durable:
                os.fsync(fd)
        staged.replace(path)
        if durable:
            _sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from error


def _sync_folder(path: Path) -> None:
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)

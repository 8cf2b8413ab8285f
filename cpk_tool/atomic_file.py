"""Write a file so that it is there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from typing import TYPE_CHECKING, BinaryIO, cast

from cpk_tool.direct_file import DirectFile
from shared.errors import FormatError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PUBLIC, _PRIVATE = 0o666, 0o600


@contextlib.contextmanager
def replacing(path: Path, *, private: bool = False) -> Iterator[BinaryIO]:
    """Open a temporary file in the folder of ``path`` that takes its place when the block ends well.

    The file and its folder are synced before the block is left. Whatever ends the block otherwise, an error,
    an interrupt or a termination signal, leaves ``path`` as it was and nothing beside it.

    Args:
        path: The file to be.
        private: Only the owner may read it, and where the file system can, it has no name before it is whole:
            then not even a process that is killed leaves a part of it behind.

    Yields:
        The file, for writing from front to back. It goes to the disk block by block, past the page cache.

    Raises:
        FormatError: ``path`` exists and is no regular file.
        StorageError: The disk refused.
    """
    _check_replaceable(path)
    temporary = path.parent / f".cpk-{secrets.token_hex(8)}.part"
    try:
        with (
            _create(temporary, private=private) as file,
            contextlib.closing(DirectFile(file.fileno())) as direct,
        ):
            yield cast("BinaryIO", direct)
            direct.finish()
            folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                if not temporary.exists():
                    # Given a folder, link follows the descriptor's symbolic link (AT_SYMLINK_FOLLOW).
                    os.link(f"/proc/self/fd/{file.fileno()}", temporary, src_dir_fd=folder)
                temporary.replace(path)
                os.fsync(folder)
            finally:
                os.close(folder)
    except OSError as error:
        raise StorageError(f"cannot write {path}: {error.strerror}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _create(temporary: Path, *, private: bool) -> BinaryIO:
    if private:
        # A file system without nameless files says so in several ways; other trouble comes up again below.
        with contextlib.suppress(OSError):
            fd = os.open(temporary.parent, os.O_TMPFILE | os.O_RDWR, _PRIVATE)
            return cast("BinaryIO", os.fdopen(fd, "r+b", buffering=0))
    fd = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, _PRIVATE if private else _PUBLIC)
    return cast("BinaryIO", os.fdopen(fd, "wb", buffering=0))


def _check_replaceable(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISREG(path.stat().st_mode):
            raise FormatError(f"{path}: expected a regular file or none, found something else")

"""The audit chain's segments as files of one folder: appended to under a lock, and flushed before it counts.

A crash can leave the beginning of a line. It was acknowledged to nobody, so the next writer cuts it off and
says so; whole lines are never touched.
"""

from __future__ import annotations

import fcntl
import logging
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from shared.errors import Conflict, TransportError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

_FOLDER_MODE, _FILE_MODE = 0o700, 0o600
_LOG = logging.getLogger(__name__)


class FolderSegments:
    """A :class:`functions.audit_chain.SegmentStore` in a folder.

    Args:
        folder: Made with the first segment.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def names(self) -> Sequence[str]:
        """Return the names of all segments; see the port."""
        with _disk_errors("listing"):
            if not self._folder.is_dir():
                return []
            return sorted(path.name for path in self._folder.iterdir() if path.is_file())

    def read(self, name: str, *, offset: int = 0) -> bytes:
        """Return a segment's whole lines from ``offset``; see the port."""
        with _disk_errors("reading"), (self._folder / name).open("rb") as file:
            file.seek(offset)
            data = file.read()
        return data[: data.rfind(b"\n") + 1]

    def create(self, name: str) -> None:
        """Make an empty segment; see the port."""
        with _disk_errors("making a segment of"):
            self._folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
            os.close(os.open(self._folder / name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, _FILE_MODE))
            folder = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def append(self, name: str, data: bytes, *, offset: int) -> None:
        """Add bytes to the end; see the port."""
        with _disk_errors("appending to"):
            handle = os.open(self._folder / name, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC)
            with os.fdopen(handle, "ab", buffering=0) as file:
                fcntl.flock(handle, fcntl.LOCK_EX)  # until it is closed
                size = os.fstat(handle).st_size
                if size > offset and b"\n" not in os.pread(handle, size - offset, offset):
                    _LOG.warning("audit_torn_line", extra={"segment": name, "bytes": size - offset})
                    os.ftruncate(handle, offset)
                    size = offset
                if size != offset:
                    raise Conflict(f"{name}: ends at {size}, expected {offset}", code="audit_behind")
                try:
                    if file.write(data) != len(data):
                        raise OSError(0, "written in part")  # noqa: TRY301 - told as what the disk says
                    os.fsync(handle)
                except OSError:
                    os.ftruncate(handle, offset)
                    raise


@contextmanager
def _disk_errors(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise TransportError(f"{what} the audit chain: {error.strerror}", code="audit_storage") from error

"""A progress bar on standard error, where that is a terminal; elsewhere nothing at all."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, BinaryIO, TextIO, cast

from cpk_tool.output import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_REDRAW_SECONDS = 0.1
_BAR, _NARROWEST = 24, 40
_UNITS = ("B", "kB", "MB", "GB", "TB")
_UNIT = 1000


class ProgressBar:
    """How much of something has been done, on one line that is drawn over itself.

    Args:
        what: What is being done, in few words.
        total: Bytes that there are to do.
        terminal: Where to draw.
        clock: Seconds that go forward.
    """

    def __init__(
        self, what: str, total: int, *, terminal: TextIO, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._what = printable(what)
        self._total = total
        self._terminal = terminal
        self._clock = clock
        self._started = clock()
        self._drawn: float | None = None
        self._done = 0

    def add(self, count: int) -> None:
        """Count ``count`` bytes more."""
        self.reach(self._done + count)

    def reach(self, done: int) -> None:
        """Say how many bytes have been done in all."""
        self._done = min(done, self._total)
        now = self._clock()
        if self._drawn is None or now - self._drawn >= _REDRAW_SECONDS:
            self._drawn = now
            self._terminal.write(f"\r{self._line(now)}\x1b[K")
            self._terminal.flush()

    def clear(self) -> None:
        """Take the line away."""
        if self._drawn is not None:
            self._terminal.write("\r\x1b[K")
            self._terminal.flush()

    def _line(self, now: float) -> str:
        share = self._done / self._total if self._total else 1.0
        filled = round(share * _BAR)
        parts = [self._what, f"[{'#' * filled}{'.' * (_BAR - filled)}]", f"{share:4.0%}"]
        elapsed = now - self._started
        if elapsed > 0 and self._done:
            rate = self._done / elapsed
            parts += [f"{_shown_bytes(rate)}/s", f"{(self._total - self._done) / rate:.0f} s left"]
        return "  ".join(parts)[: self._width()]

    def _width(self) -> int:
        with contextlib.suppress(OSError, ValueError):
            return max(os.get_terminal_size(self._terminal.fileno()).columns - 1, _NARROWEST)
        return 79


class CountedReader(io.RawIOBase):
    """A file whose bytes are counted while they are read; it stays the opener's to close."""

    def __init__(self, file: BinaryIO, bar: ProgressBar) -> None:
        self._file = file
        self._bar = bar

    def readable(self) -> bool:
        """Return true."""
        return True

    def seekable(self) -> bool:
        """Return whether the file is."""
        return self._file.seekable()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move in the file; what was read before stays counted."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """Return the file's position."""
        return self._file.tell()

    def fileno(self) -> int:
        """Return the file's descriptor."""
        return self._file.fileno()

    def readinto(self, buffer: memoryview) -> int | None:  # type: ignore[override] # a buffer, as its callers pass
        """Read and count."""
        count: int | None = cast("io.RawIOBase", self._file).readinto(buffer)
        self._bar.add(count or 0)
        return count


@contextlib.contextmanager
def progress(what: str, total: int, *, terminal: TextIO | None = None) -> Iterator[ProgressBar | None]:
    """Show a bar while the block runs, if ``terminal`` (standard error) is one that can draw it.

    Yields:
        The bar, or None where nobody looks.
    """
    stream = sys.stderr if terminal is None else terminal
    if not stream.isatty() or os.environ.get("TERM") == "dumb":
        yield None
        return
    bar = ProgressBar(what, total, terminal=stream)
    try:
        yield bar
    finally:
        bar.clear()


@contextlib.contextmanager
def reading(file: BinaryIO, what: str, total: int) -> Iterator[BinaryIO]:
    """Yield the file to read from, which shows how far it has been read."""
    with progress(what, total) as bar:
        yield file if bar is None else cast("BinaryIO", CountedReader(file, bar))


@contextlib.contextmanager
def watching(file: BinaryIO, what: str, total: int) -> Iterator[None]:
    """Show how far another process has read a file that shares its position with it."""
    with progress(what, total) as bar:
        if bar is None:
            yield
            return
        ended = threading.Event()

        def watch() -> None:
            while not ended.wait(_REDRAW_SECONDS):
                bar.reach(os.lseek(file.fileno(), 0, os.SEEK_CUR))

        thread = threading.Thread(target=watch, name="progress", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


def _shown_bytes(count: float) -> str:
    for unit in _UNITS:
        if count < _UNIT or unit == _UNITS[-1]:
            break
        count /= _UNIT
    return f"{count:.0f} {unit}" if unit in _UNITS[:2] else f"{count:.1f} {unit}"

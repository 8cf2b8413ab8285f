"""Write a file from front to back past the page cache.

A file that is to be durable has to reach the disk before its name does. Through the page cache that happens
at the end, in one long ``fsync``; with ``O_DIRECT`` it happens while the next blocks are made, and the copy
into the cache, the dearest step after the digest, falls away. Blocks are aligned, and written by two threads
so that the disk always has one. Space is allocated some way ahead and cut off at the end.

Where the file system has no ``O_DIRECT`` the same blocks go through the page cache.
"""

from __future__ import annotations

import contextlib
import fcntl
import io
import mmap
import os
import queue
import threading

BLOCK = 1 << 19
"""Bytes that go to the disk at a time; a multiple of every disk's sector and file system's block."""

_WRITERS = 2
_BLOCKS = _WRITERS + 2  # those being written, one that waits, one being filled
_ALLOCATE = 1 << 26  # bytes of disk space to ask for at a time


class DirectFile(io.RawIOBase):
    """A file being written; an error of the disk is raised by a later call, at the latest by :meth:`finish`.

    Args:
        fd: An empty regular file open for writing; it stays the caller's, who closes it after this object.
    """

    def __init__(self, fd: int) -> None:
        super().__init__()
        self._fd = fd
        self._free: queue.SimpleQueue[memoryview] = queue.SimpleQueue()
        self._full: queue.SimpleQueue[tuple[memoryview, int] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._error: OSError | None = None
        self._block = memoryview(mmap.mmap(-1, BLOCK))  # anonymous memory begins on a page
        self._filled = 0
        self._handed_over = 0
        self._allocated = 0

    def writable(self) -> bool:
        """Say yes."""
        return True

    def write(self, data: bytes | bytearray | memoryview, /) -> int:  # type: ignore[override] # typeshed's Buffer is 3.12's
        """Take all of ``data``; it may change as soon as this returns.

        Raises:
            OSError: The disk refused an earlier block.
        """
        view = memoryview(data).cast("B")
        done = 0
        while done < len(view):
            part = view[done : done + BLOCK - self._filled]
            self._block[self._filled : self._filled + len(part)] = part
            self._filled += len(part)
            done += len(part)
            if self._filled == BLOCK:
                self._hand_over()
        return done

    def finish(self) -> None:
        """Write what is left and sync the file.

        Raises:
            OSError: The disk refused.
        """
        self._end_threads()
        self._raise_error()
        if self._handed_over:
            _set_direct(self._fd, on=False)  # the rest is no whole sector
            os.ftruncate(self._fd, self._handed_over)
        _write_at(self._fd, self._block[: self._filled], self._handed_over)
        os.fsync(self._fd)

    def close(self) -> None:
        """Give up what is not written yet; may be called at any time and again."""
        self._end_threads()
        super().close()

    def _hand_over(self) -> None:
        self._raise_error()
        if not self._threads:
            self._start()
        self._allocate()
        self._full.put((self._block, self._handed_over))
        self._handed_over += BLOCK
        self._block = self._free.get()
        self._filled = 0

    def _start(self) -> None:
        """Start the threads: only a file of more than one block needs them."""
        with contextlib.suppress(OSError):
            _set_direct(self._fd, on=True)
        for _ in range(_BLOCKS - 1):
            self._free.put(memoryview(mmap.mmap(-1, BLOCK)))
        for number in range(_WRITERS):
            thread = threading.Thread(target=self._run, name=f"write-{number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def _allocate(self) -> None:
        """Ask for disk space in large pieces; whether there is enough is for the writing to find out."""
        if self._handed_over == self._allocated:
            with contextlib.suppress(OSError):
                os.posix_fallocate(self._fd, self._allocated, _ALLOCATE)
                self._allocated += _ALLOCATE

    def _run(self) -> None:
        while (item := self._full.get()) is not None:
            block, offset = item
            try:
                if self._error is None:
                    _write_at(self._fd, block, offset)
            except OSError as error:
                self._error = error
            self._free.put(block)

    def _end_threads(self) -> None:
        for _ in self._threads:
            self._full.put(None)
        for thread in self._threads:
            thread.join()
        self._threads.clear()

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error


def _set_direct(fd: int, *, on: bool) -> None:
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    fcntl.fcntl(fd, fcntl.F_SETFL, flags | os.O_DIRECT if on else flags & ~os.O_DIRECT)


def _write_at(fd: int, data: memoryview, offset: int) -> None:
    """Write all of ``data``, through the page cache if the file system does not take it directly."""
    while data:
        try:
            count = os.pwrite(fd, data, offset)
        except OSError:
            if not fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
                raise
            _set_direct(fd, on=False)
            continue
        data, offset = data[count:], offset + count

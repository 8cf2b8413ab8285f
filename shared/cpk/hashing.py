"""Digests over a stream of buffers, on this thread or beside it.

The hashes and the AES-GCM context of :mod:`cryptography` both release the interpreter lock, so a digest on a
thread of its own costs no time where a second core is free. Buffers are handed over without a copy; a caller
that fills as many in turn as the digest's ``ring`` says never overwrites one that is still being read::

    with contextlib.closing(start_digest(size)) as digest:
        for buffer in itertools.cycle(buffer_ring(digest.ring, 1 << 20)):
            if not (count := file.readinto(buffer)):
                break
            digest.update(buffer[:count])
        digest.finish()
"""

from __future__ import annotations

import enum
import queue
import threading
from typing import TYPE_CHECKING, Final, Protocol

from cryptography.hazmat.primitives import hashes

if TYPE_CHECKING:
    from collections.abc import Mapping

_BEHIND = 3

THREAD_FROM = 4 << 20
"""Bytes from which a thread of its own pays for starting it."""


class HashAlgorithm(enum.Enum):
    """A hash function of FIPS 180-4; the value is its name in a manifest and in hashlib."""

    SHA256 = "sha256"
    SHA384 = "sha384"
    SHA512 = "sha512"

    @property
    def size(self) -> int:
        """Bytes of a digest."""
        return int(self.value.removeprefix("sha")) // 8

    def start(self) -> hashes.Hash:
        """Return a digest over nothing yet."""
        return hashes.Hash(_ALGORITHMS[self]())


_ALGORITHMS: Final[Mapping[HashAlgorithm, type[hashes.HashAlgorithm]]] = {
    HashAlgorithm.SHA256: hashes.SHA256,
    HashAlgorithm.SHA384: hashes.SHA384,
    HashAlgorithm.SHA512: hashes.SHA512,
}


class StreamDigest(Protocol):
    """A digest being computed."""

    @property
    def ring(self) -> int:
        """How many buffers the caller fills in turn, so that none is overwritten before it is hashed."""

    def update(self, data: bytes | memoryview) -> None:
        """Add ``data``; it must stay as it is until ``ring - 1`` further updates, or the end."""

    def snapshot(self) -> bytes:
        """Return the digest over everything added so far; more may be added afterwards."""

    def finish(self) -> bytes:
        """Return the digest over everything added; nothing may be added afterwards."""

    def close(self) -> None:
        """Give up whatever runs; may be called at any time and again."""


class InlineDigest:
    """A digest computed on the calling thread."""

    ring = 1

    def __init__(self, algorithm: HashAlgorithm = HashAlgorithm.SHA256) -> None:
        self._hash = algorithm.start()

    def update(self, data: bytes | memoryview) -> None:
        """Add ``data``."""
        self._hash.update(data)

    def snapshot(self) -> bytes:
        """Return the digest so far."""
        return self._hash.copy().finalize()

    def finish(self) -> bytes:
        """Return the digest."""
        return self.snapshot()

    def close(self) -> None:
        """Do nothing."""


class ThreadedDigest:
    """A digest computed on a thread of its own, at most three buffers behind.

    Each buffer costs a token, which the thread gives back when the buffer is hashed; taking one waits.
    """

    ring = _BEHIND + 1  # those that wait or are being hashed, and the one being filled

    def __init__(self, algorithm: HashAlgorithm = HashAlgorithm.SHA256) -> None:
        self._hash = algorithm.start()
        self._buffers: queue.SimpleQueue[bytes | memoryview | None] = queue.SimpleQueue()
        self._tokens: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(_BEHIND):
            self._tokens.put(None)
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._run, name=algorithm.value, daemon=True)
        self._thread.start()

    def update(self, data: bytes | memoryview) -> None:
        """Add ``data``, waiting while three buffers are still to be hashed."""
        self._tokens.get()
        self._buffers.put(data)

    def snapshot(self) -> bytes:
        """Return the digest so far, once everything added has been hashed."""
        for _ in range(_BEHIND):
            self._tokens.get()
        for _ in range(_BEHIND):
            self._tokens.put(None)
        return self._digest()

    def finish(self) -> bytes:
        """Return the digest once everything added has been hashed."""
        self.close()
        return self._digest()

    def close(self) -> None:
        """End the thread after what was added."""
        if self._thread.is_alive():
            self._buffers.put(None)
            self._thread.join()

    def _digest(self) -> bytes:
        if self._error is not None:
            raise self._error
        return self._hash.copy().finalize()

    def _run(self) -> None:
        while (data := self._buffers.get()) is not None:
            try:
                self._hash.update(data)
            except Exception as error:  # noqa: BLE001 - the thread's outermost loop; raised where it is asked for
                self._error = error
            self._tokens.put(None)


def start_digest(
    size: int, *, algorithm: HashAlgorithm = HashAlgorithm.SHA256, parallel: bool | None = None
) -> StreamDigest:
    """Return a digest for about ``size`` bytes; threaded if they are many, unless ``parallel`` says which."""
    threaded = size >= THREAD_FROM if parallel is None else parallel
    return ThreadedDigest(algorithm) if threaded else InlineDigest(algorithm)


def buffer_ring(count: int, size: int) -> tuple[memoryview, ...]:
    """Return ``count`` writable buffers of ``size`` bytes."""
    return tuple(memoryview(bytearray(size)) for _ in range(count))

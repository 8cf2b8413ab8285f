"""Read a payload once, in blocks: digest it, transform it, digest the result, give it on.

One loop serves building and opening, single-pass ciphers and segmented ones. The calling thread reads and
transforms; digests that have threads of their own run beside it, so that with two cores the slowest digest
alone sets the pace. The memory is a few blocks, whatever the payload's size::

    with contextlib.closing(start_digest(size)) as digest:
        copy_blocks(
            file, size, before=[digest], transform=cipher, sink=output.write, ended_early=too_short
        )

What a block is: :data:`BLOCK` bytes for a cipher that takes any, a whole segment for a segmented one. A
transform that needs more room than its input says how much in ``growth``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from shared.cpk.hashing import StreamDigest, buffer_ring

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

BLOCK = 1 << 20
"""Bytes of payload that are read, transformed and given on at a time."""

CIPHER_GROWTH = 16
"""``update_into`` of a stream cipher wants room for one AES block less one byte more than its input."""


class Reader(Protocol):
    """A binary file, as far as it is read here."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Read into ``buffer``; return how many bytes, 0 at the end."""


class Transform(Protocol):
    """A cipher that is fed block by block."""

    def __call__(self, block: memoryview, room: memoryview, /) -> int:
        """Transform ``block`` into ``room``, larger by ``growth``; return how many bytes were written."""


def copy_blocks(
    source: Reader,
    size: int,
    *,
    sink: Callable[[memoryview], object],
    ended_early: Callable[[int], Exception],
    before: Sequence[StreamDigest] = (),
    transform: Transform | None = None,
    after: Sequence[StreamDigest] = (),
    block: int = BLOCK,
    growth: int = CIPHER_GROWTH,
) -> None:
    """Give ``size`` bytes of ``source``, transformed, to ``sink``.

    Args:
        source: Read from where it stands.
        size: Bytes to read; 0 reads nothing.
        sink: Takes each transformed block, in order; it is valid during the call only.
        ended_early: Makes the exception for a source that ends after so many bytes.
        before: Digests over the bytes as they were read.
        transform: Called once a block, in order; every block but the last is ``block`` bytes long. ``None``
            passes the bytes on as they are.
        after: Digests over what the sink gets.
        block: Bytes to read at a time.
        growth: Room beyond the input that ``transform`` wants in its output, in bytes.

    Raises:
        Exception: What ``ended_early`` made, or whatever ``source``, ``transform`` and ``sink`` raise. The
            digests are the caller's to close.
    """
    room = min(block, size)
    if transform is None:
        before, after = (*before, *after), ()
    sources = buffer_ring(_ring(before), room)
    targets = buffer_ring(_ring(after), room + growth) if transform is not None else ()
    for number, done in enumerate(range(0, size, block)):
        data = sources[number % len(sources)][: size - done]
        if (found := fill(source, data)) < len(data):
            raise ended_early(done + found)
        for digest in before:
            digest.update(data)
        if transform is not None:
            target = targets[number % len(targets)]
            data = target[: transform(data, target[: len(data) + growth])]
            for digest in after:
                digest.update(data)
        sink(data)


def fill(source: Reader, buffer: memoryview) -> int:
    """Read into ``buffer`` until it is full or the source ends; return how many bytes there are."""
    filled = 0
    while filled < len(buffer):
        count = source.readinto(buffer[filled:])
        if not count:
            break
        filled += count
    return filled


def _ring(digests: Sequence[StreamDigest]) -> int:
    return max((digest.ring for digest in digests), default=1)

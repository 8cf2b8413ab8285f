"""The frame: a 16-byte header, the stream table, the streams (format specification, section 3).

All integers are little-endian. Offsets in the table count from the origin, the first byte after the table.
Everything is checked against the file's size before anything is allocated, so a table cannot claim memory::

    frame = read_frame(file, size)
    frame.streams[frame.manifest_index].size
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from shared.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Sequence

MAGIC = 0x0ECCF00D
FRAME_VERSION = 1
MANIFEST_TYPE = 1
MANIFEST_VERSION = 1

HEADER_SIZE = 16
"""Bytes of the fixed header."""

ENTRY_SIZE = 16
"""Bytes of one entry in the stream table: u64 offset, u64 size."""

MIN_STREAMS = 2
"""A manifest and a payload."""

MAX_STREAMS = 64
"""Most streams that are read; the count's u16 would allow 65,535, no producer needs more than a dozen."""

_HEADER = struct.Struct("<IHHHHHH")
_ENTRY = struct.Struct("<QQ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stream:
    """One entry of the stream table.

    Attributes:
        index: Its place in the table, from 0.
        offset: Bytes from the origin to its first byte.
        size: Its length in bytes.
    """

    index: int
    offset: int
    size: int

    @property
    def end(self) -> int:
        """Bytes from the origin to the byte after its last."""
        return self.offset + self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A checked header and stream table: every stream lies in the file and none overlap.

    Attributes:
        streams: The streams in the table's order.
        manifest_index: Which of them is the manifest.
    """

    streams: tuple[Stream, ...]
    manifest_index: int

    @property
    def origin(self) -> int:
        """Bytes from the start of the file to the first byte after the stream table."""
        return HEADER_SIZE + ENTRY_SIZE * len(self.streams)

    @property
    def end(self) -> int:
        """Bytes from the start of the file to the byte after the last stream."""
        return self.origin + max(stream.end for stream in self.streams)

    def file_offset(self, index: int) -> int:
        """Return the bytes from the start of the file to stream ``index``."""
        return self.origin + self.streams[index].offset


def read_frame(file: BinaryIO, size: int) -> Frame:
    """Read and check the header and the stream table.

    Args:
        file: The package, seekable.
        size: Its length in bytes.

    Raises:
        FormatError: Any rule of the format specification, section 3, is broken; the message names the field,
            its offset, what was expected and what was found.
    """
    if size < HEADER_SIZE:
        raise FormatError(f"frame header at offset 0: expected {HEADER_SIZE} bytes, found {size}")
    count, manifest_index = _parse_header(read_at(file, 0, HEADER_SIZE, what="frame header"))
    table_size = count * ENTRY_SIZE
    if size - HEADER_SIZE < table_size:
        raise FormatError(
            f"stream table at offset {HEADER_SIZE}: expected {table_size} bytes for {count} streams, "
            f"found {size - HEADER_SIZE}"
        )
    table = read_at(file, HEADER_SIZE, table_size, what="stream table")
    streams = tuple(
        Stream(index=index, offset=offset, size=length)
        for index, (offset, length) in enumerate(_ENTRY.iter_unpack(table))
    )
    _check_bounds(streams, size - HEADER_SIZE - table_size)
    _check_overlap(streams)
    return Frame(streams=streams, manifest_index=manifest_index)


def encode_frame(sizes: Sequence[int], *, manifest_index: int) -> bytes:
    """Return header and stream table for streams of these sizes, one directly after the other.

    Args:
        sizes: Length of each stream in bytes, in the table's order.
        manifest_index: Which of them is the manifest.
    """
    header = _HEADER.pack(
        MAGIC, FRAME_VERSION, 0, len(sizes), manifest_index, MANIFEST_TYPE, MANIFEST_VERSION
    )
    table = bytearray()
    offset = 0
    for size in sizes:
        table += _ENTRY.pack(offset, size)
        offset += size
    return header + bytes(table)


def table_entry(index: int) -> str:
    """Return where stream ``index`` is described, for messages."""
    return f"table entry at offset {HEADER_SIZE + ENTRY_SIZE * index}"


def read_at(file: BinaryIO, offset: int, size: int, *, what: str) -> bytes:
    """Return exactly ``size`` bytes from ``offset``; the caller has checked both against the file's size.

    Raises:
        FormatError: The file ends before.
    """
    file.seek(offset)
    parts = []
    missing = size
    while missing:
        part = file.read(missing)
        if not part:
            raise FormatError(
                f"{what} at offset {offset}: expected {size} bytes, the file ends after {size - missing}"
            )
        parts.append(part)
        missing -= len(part)
    return b"".join(parts)


def _parse_header(header: bytes) -> tuple[int, int]:
    """Return stream count and manifest index of a valid header."""
    magic, version, flags, count, manifest_index, manifest_type, manifest_version = _HEADER.unpack(header)
    for name, offset, expected, found in (
        ("magic number", 0, MAGIC, magic),
        ("frame version", 4, FRAME_VERSION, version),
        ("reserved flags", 6, 0, flags),
        ("manifest type", 12, MANIFEST_TYPE, manifest_type),
        ("manifest version", 14, MANIFEST_VERSION, manifest_version),
    ):
        if found != expected:
            shown = f"{expected:#010x}, found {found:#010x}" if offset == 0 else f"{expected}, found {found}"
            raise FormatError(f"{name} at offset {offset}: expected {shown}")
    if not MIN_STREAMS <= count <= MAX_STREAMS:
        raise FormatError(f"stream count at offset 8: expected {MIN_STREAMS} to {MAX_STREAMS}, found {count}")
    if manifest_index >= count:
        raise FormatError(f"manifest index at offset 10: expected 0 to {count - 1}, found {manifest_index}")
    return count, manifest_index


def _check_bounds(streams: tuple[Stream, ...], room: int) -> None:
    """Refuse streams that reach past the ``room`` bytes which follow the origin.

    Python's integers do not wrap, so an offset and a size whose sum passes 2^64 fall under the same check.
    """
    if streams[0].offset:
        raise FormatError(
            f"offset of stream 0 at offset {HEADER_SIZE}: expected 0, found {streams[0].offset}"
        )
    for stream in streams:
        if stream.end > room:
            raise FormatError(
                f"stream {stream.index}, {table_entry(stream.index)}: "
                f"expected it to end within {room} bytes from the origin, found offset {stream.offset} and "
                f"size {stream.size}"
            )


def _check_overlap(streams: tuple[Stream, ...]) -> None:
    """Refuse streams that share a byte; an empty stream shares none."""
    filled = sorted((stream for stream in streams if stream.size), key=lambda stream: stream.offset)
    for before, after in itertools.pairwise(filled):
        if after.offset < before.end:
            raise FormatError(
                f"stream {after.index}, {table_entry(after.index)}: "
                f"expected it behind stream {before.index}, which ends at {before.end}, "
                f"found offset {after.offset}"
            )

"""The frame: every malformed header and table says what, where, expected and found."""

import io
import struct

import pytest

from shared.cpk.frame import encode_frame, read_at, read_frame
from shared.errors import FormatError

ENTRY_1 = "stream 1, table entry at offset 32"
ENTRY_2 = "stream 2, table entry at offset 48"
PAST_THE_END = "expected it to end within 64 bytes from the origin"


def frame_of(data):
    return read_frame(io.BytesIO(data), len(data))


def with_header(offset, layout, value):
    data = bytearray(encode_frame([4, 4], manifest_index=1) + b"datamani")
    struct.pack_into(layout, data, offset, value)
    return bytes(data)


def with_table(*entries, room=64):
    table = b"".join(struct.pack("<QQ", *entry) for entry in entries)
    return struct.pack("<IHHHHHH", 0x0ECCF00D, 1, 0, len(entries), 1, 1, 1) + table + bytes(room)


def test_what_is_written_is_read():
    data = encode_frame([5, 3], manifest_index=1) + b"helloxyz"

    frame = frame_of(data)

    assert [(stream.offset, stream.size) for stream in frame.streams] == [(0, 5), (5, 3)]
    assert frame.manifest_index == 1
    assert frame.origin == 48
    assert frame.file_offset(1) == 53
    assert frame.end == len(data)


def test_header_bytes_are_the_specifications():
    header = "0df0cc0e01000000 0200010001000100"
    table = "0000000000000000 0100000000000000 0100000000000000 0200000000000000"

    assert encode_frame([1, 2], manifest_index=1).hex(" ", 8) == f"{header} {table}"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "frame header at offset 0: expected 16 bytes, found 0"),
        (bytes(15), "frame header at offset 0: expected 16 bytes, found 15"),
        (
            with_header(0, ">I", 0x0ECCF00D),
            "magic number at offset 0: expected 0x0eccf00d, found 0x0df0cc0e",
        ),
        (with_header(4, "<H", 2), "frame version at offset 4: expected 1, found 2"),
        (with_header(6, "<H", 0x8000), "reserved flags at offset 6: expected 0, found 32768"),
        (with_header(8, "<H", 1), "stream count at offset 8: expected 2 to 64, found 1"),
        (with_header(8, "<H", 65), "stream count at offset 8: expected 2 to 64, found 65"),
        (with_header(8, "<H", 64), "stream table at offset 16: expected 1024 bytes for 64 streams, found 40"),
        (with_header(10, "<H", 2), "manifest index at offset 10: expected 0 to 1, found 2"),
        (with_header(12, "<H", 0), "manifest type at offset 12: expected 1, found 0"),
        (with_header(14, "<H", 7), "manifest version at offset 14: expected 1, found 7"),
        (with_table((1, 4), (5, 4)), "offset of stream 0 at offset 16: expected 0, found 1"),
        (
            with_table((0, 4), (61, 4)),
            (f"{ENTRY_1}: {PAST_THE_END}, found offset 61 and size 4"),
        ),
        (
            with_table((0, 4), (2**64 - 2, 4)),
            (f"{ENTRY_1}: {PAST_THE_END}, found offset 18446744073709551614 and size 4"),
        ),
        (
            with_table((0, 4), (3, 4)),
            f"{ENTRY_1}: expected it behind stream 0, which ends at 4, found offset 3",
        ),
        (
            with_table((0, 8), (20, 4), (4, 2)),
            f"{ENTRY_2}: expected it behind stream 0, which ends at 8, found offset 4",
        ),
    ],
)
def test_malformed_frame_is_told_exactly(data, message):
    with pytest.raises(FormatError) as caught:
        frame_of(data)

    assert str(caught.value) == message


def test_gaps_empty_streams_and_any_order_are_read():
    frame = frame_of(with_table((0, 4), (40, 8), (10, 0), (8, 4)))

    assert frame.file_offset(1) == frame.origin + 40


def test_a_file_that_became_shorter_is_malformed():
    with pytest.raises(FormatError, match="manifest at offset 4: expected 8 bytes, the file ends after 4"):
        read_at(io.BytesIO(b"12345678"), 4, 8, what="manifest")

"""Every byte goes through once, in order, into each digest and the sink, whatever the sizes."""

import contextlib
import hashlib
import io
import random

import pytest

from shared.cpk.hashing import HashAlgorithm, start_digest
from shared.cpk.pipeline import copy_blocks, fill

BLOCK = 1 << 12


class Trickling(io.RawIOBase):
    """Reads fewer bytes than it is asked for, as pipes do."""

    def __init__(self, data):
        super().__init__()
        self._data = io.BytesIO(data)

    def readinto(self, buffer):
        return self._data.readinto(memoryview(buffer)[:1000])


class DoublingEnd:
    """Turns a block into itself and four bytes more, and notes the sizes that it was given."""

    def __init__(self):
        self.sizes = []

    def __call__(self, block, room):
        assert len(room) == len(block) + 4
        self.sizes.append(len(block))
        room[: len(block)] = block
        room[len(block) :] = len(self.sizes).to_bytes(4, "big")
        return len(room)


def too_short(found):
    return EOFError(found)


@pytest.fixture(params=[False, True], ids=["inline", "threads"])
def digests(request):
    """Return what starts digests of two algorithms, and ends them with the test."""
    with contextlib.ExitStack() as stack:

        def start():
            algorithms = (HashAlgorithm.SHA256, HashAlgorithm.SHA512)
            started = [start_digest(0, algorithm=each, parallel=request.param) for each in algorithms]
            for digest in started:
                stack.enter_context(contextlib.closing(digest))
            return started

        yield start


def finished(started):
    return [digest.finish() for digest in started]


def hashes_of(data):
    return [hashlib.sha256(data).digest(), hashlib.sha512(data).digest()]


@pytest.mark.parametrize("size", [0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 40 * BLOCK + 7])
def test_what_is_read_and_what_comes_out_are_digested(digests, size):
    data = random.Random(size).randbytes(size)
    before, after, double, output = digests(), digests(), DoublingEnd(), bytearray()

    copy_blocks(
        Trickling(data + b"more"),
        size,
        sink=output.extend,
        ended_early=too_short,
        before=before,
        transform=double,
        after=after,
        block=BLOCK,
        growth=4,
    )

    pieces = [data[start : start + BLOCK] for start in range(0, size, BLOCK)]
    expected = b"".join(piece + number.to_bytes(4, "big") for number, piece in enumerate(pieces, 1))
    assert double.sizes == [len(piece) for piece in pieces]
    assert output == expected
    assert finished(before) == hashes_of(data)
    assert finished(after) == hashes_of(expected)


def test_without_a_transform_both_kinds_of_digest_see_the_same(digests):
    data = random.Random(0).randbytes(9 * BLOCK + 1)
    before, after, output = digests(), digests(), bytearray()

    copy_blocks(
        io.BytesIO(data),
        len(data),
        sink=output.extend,
        ended_early=too_short,
        before=before,
        after=after,
        block=BLOCK,
    )

    assert output == data
    assert finished(before) == finished(after) == hashes_of(data)


def test_a_source_that_ends_early_is_told_with_what_was_found():
    with pytest.raises(EOFError) as caught:
        copy_blocks(
            Trickling(bytes(3 * BLOCK - 5)),
            3 * BLOCK,
            sink=lambda _block: None,
            ended_early=too_short,
            block=BLOCK,
        )

    assert caught.value.args == (3 * BLOCK - 5,)


def test_fill_stops_at_the_end():
    buffer = bytearray(3000)

    assert fill(Trickling(bytes(2500)), memoryview(buffer)) == 2500

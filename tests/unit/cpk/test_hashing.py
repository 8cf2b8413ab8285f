"""Digests beside the calling thread: the same result, and buffers that are not overwritten too early."""

import contextlib
import hashlib
import threading

import pytest

from shared.cpk.hashing import (
    THREAD_FROM,
    HashAlgorithm,
    InlineDigest,
    ThreadedDigest,
    buffer_ring,
    start_digest,
)


def test_many_bytes_are_hashed_on_a_thread_of_their_own():
    small, large = start_digest(THREAD_FROM - 1), start_digest(THREAD_FROM)

    assert isinstance(small, InlineDigest)
    assert isinstance(large, ThreadedDigest)
    large.close()
    large.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "sha256"]


def test_a_ring_is_never_overwritten_before_it_is_hashed():
    digest, expected = ThreadedDigest(), hashlib.sha256()
    ring = buffer_ring(digest.ring, 1 << 16)

    for number in range(200):
        buffer = ring[number % len(ring)]
        buffer[:] = bytes([number]) * len(buffer)
        expected.update(buffer)
        digest.update(buffer)

    assert digest.finish() == expected.digest()


def test_inline_digest_is_the_same():
    digest = InlineDigest()
    digest.update(b"abc")
    digest.close()

    assert digest.finish() == hashlib.sha256(b"abc").digest()


@pytest.mark.parametrize("parallel", [False, True], ids=["inline", "thread"])
@pytest.mark.parametrize("algorithm", HashAlgorithm)
def test_a_snapshot_is_the_digest_so_far_and_more_may_follow(algorithm, parallel):
    with contextlib.closing(start_digest(0, algorithm=algorithm, parallel=parallel)) as digest:
        for _ in range(20):
            digest.update(bytes(1 << 16))
        so_far = digest.snapshot()
        digest.update(b"more")
        whole = digest.finish()

    assert so_far == hashlib.new(algorithm.value, bytes(20 << 16)).digest()
    assert whole == hashlib.new(algorithm.value, bytes(20 << 16) + b"more").digest()
    assert len(whole) == algorithm.size


def test_what_the_thread_could_not_hash_is_told_and_blocks_nobody():
    digest = ThreadedDigest()
    released = memoryview(bytearray(8))
    released.release()
    for _ in range(10):
        digest.update(released)

    with pytest.raises(TypeError, match="to a buffer"):
        digest.finish()

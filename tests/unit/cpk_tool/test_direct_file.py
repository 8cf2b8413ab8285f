"""Bytes reach the disk whatever their number, and what the disk refuses is told."""

import errno
import fcntl
import os
import random
import resource
import threading

import pytest

from cpk_tool.direct_file import BLOCK, DirectFile

SIZES = [0, 1, 511, BLOCK - 1, BLOCK, BLOCK + 1, 4 * BLOCK, 7 * BLOCK + 4097]


@pytest.fixture
def descriptor(tmp_path):
    fd = os.open(tmp_path / "out", os.O_CREAT | os.O_RDWR)
    yield fd
    os.close(fd)


def write_in_pieces(file, data, seed):
    sizes = random.Random(seed)
    done = 0
    while done < len(data):
        piece = memoryview(data)[done : done + sizes.choice((1, 160, 4096, BLOCK, 3 * BLOCK))]
        assert file.write(piece) == len(piece)
        done += len(piece)


def writing_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("write-")]


@pytest.mark.parametrize("size", SIZES)
def test_a_file_holds_what_was_written_and_no_byte_more(tmp_path, descriptor, size):
    data = random.Random(size).randbytes(size)
    file = DirectFile(descriptor)

    write_in_pieces(file, data, size)
    file.finish()
    file.close()

    assert (tmp_path / "out").read_bytes() == data
    assert not writing_threads()


def test_a_buffer_may_change_as_soon_as_it_was_written(tmp_path, descriptor):
    buffer = bytearray(BLOCK)
    file = DirectFile(descriptor)

    for number in range(16):
        buffer[:] = bytes([number]) * BLOCK
        file.write(buffer)
    buffer[:] = b"\xff" * BLOCK
    file.finish()
    file.close()

    assert (tmp_path / "out").read_bytes() == b"".join(bytes([number]) * BLOCK for number in range(16))


@pytest.mark.parametrize("refusing", ["the flag", "the write"])
def test_a_file_system_without_direct_writes_gets_them_through_the_cache(
    tmp_path, descriptor, monkeypatch, refusing
):
    data = random.Random(1).randbytes(5 * BLOCK + 3)
    real_fcntl, real_pwrite = fcntl.fcntl, os.pwrite

    def no_flag(fd, command, argument=0):
        if command == fcntl.F_SETFL and argument & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_fcntl(fd, command, argument)

    def no_direct_write(fd, part, offset):
        if real_fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real_pwrite(fd, part, offset)

    if refusing == "the flag":
        monkeypatch.setattr(fcntl, "fcntl", no_flag)
    else:
        monkeypatch.setattr(os, "pwrite", no_direct_write)
    file = DirectFile(descriptor)
    file.write(data)
    file.finish()
    file.close()

    assert (tmp_path / "out").read_bytes() == data


def test_a_full_disk_is_told_while_writing_and_ends_the_threads(descriptor):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    file = DirectFile(descriptor)

    def fill():
        for _ in range(1000):
            file.write(bytes(BLOCK))

    resource.setrlimit(resource.RLIMIT_FSIZE, (3 * BLOCK, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            fill()
        with pytest.raises(OSError, match="File too large"):
            file.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        file.close()
    assert not writing_threads()


def test_giving_up_ends_the_threads(descriptor):
    file = DirectFile(descriptor)
    file.write(bytes(3 * BLOCK))

    file.close()
    file.close()

    assert not writing_threads()

"""A file is there whole or not at all."""

import os
import resource
import stat

import pytest

from cpk_tool.atomic_file import replacing
from shared.errors import FormatError, StorageError


def names(folder):
    return [path.name for path in folder.iterdir()]


def test_a_file_appears_when_the_block_ends_well(tmp_path):
    path = tmp_path / "out"

    with replacing(path) as file:
        file.write(b"new")
        assert not path.exists()

    assert path.read_bytes() == b"new"
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_whatever_ends_the_block_leaves_the_old_file_alone(tmp_path, error):
    path = tmp_path / "out"
    path.write_bytes(b"old")

    def fail():
        with replacing(path) as file:
            file.write(b"new")
            raise error

    with pytest.raises(error):
        fail()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["out"]


def test_a_disk_that_takes_no_more_is_a_storage_error(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill():
        with replacing(tmp_path / "out") as file:
            resource.setrlimit(resource.RLIMIT_FSIZE, (4, limits[1]))
            file.write(bytes(4))
            file.write(bytes(4))

    try:
        with pytest.raises(StorageError, match=r"cannot write .*out: File too large"):
            fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert names(tmp_path) == []


def test_what_is_no_regular_file_is_not_replaced(tmp_path):
    with pytest.raises(FormatError, match="expected a regular file or none"), replacing(tmp_path):
        pytest.fail("must not get here")


def test_permissions_follow_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        with replacing(tmp_path / "out") as file:
            file.write(b"x")
    finally:
        os.umask(before)

    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o640


def test_a_private_file_has_no_name_before_it_is_whole(tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"old")

    with replacing(path, private=True) as file:
        file.write(b"secret")
        assert names(tmp_path) == ["out"]

    assert path.read_bytes() == b"secret"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert names(tmp_path) == ["out"]


def test_a_private_file_that_fails_leaves_the_old_one_alone(tmp_path):
    path = tmp_path / "out"
    path.write_bytes(b"old")

    def fail():
        with replacing(path, private=True) as file:
            file.write(b"secret")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["out"]


def test_where_there_are_no_nameless_files_a_private_one_has_a_name_meanwhile(tmp_path, monkeypatch):
    real = os.open

    def refuse(path, flags, *rest):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return real(path, flags, *rest)

    monkeypatch.setattr(os, "open", refuse)
    with replacing(tmp_path / "out", private=True) as file:
        file.write(b"secret")
        (part,) = tmp_path.iterdir()
        assert stat.S_IMODE(part.stat().st_mode) == 0o600

    assert (tmp_path / "out").read_bytes() == b"secret"
    assert names(tmp_path) == ["out"]

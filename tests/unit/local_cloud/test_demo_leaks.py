"""The leak search finds what was planted, in every form, at every offset; and nothing else."""

import base64
import os
import random

import pytest

from local_cloud.demo.leaks import MIN_RUN, LeakSearch

KEY = bytes(random.Random(1).randbytes(32))
MODEL = random.Random(2).randbytes(5000)


@pytest.fixture
def search():
    return LeakSearch(keys={"class key": KEY}, documents={"model": MODEL})


def found(search, data):
    return list(search.search(data))


def test_finds_nothing_in_files_that_hold_nothing(search):
    assert found(search, random.Random(3).randbytes(100_000)) == []
    assert found(search, bytes(100_000)) == []
    assert found(search, b"") == []


@pytest.mark.parametrize("offset", [0, 1, 31, 32, 33, 1000])
def test_finds_the_raw_key_at_any_offset(search, offset):
    assert found(search, bytes(offset) + KEY + b"more") == [("class key", offset)]


@pytest.mark.parametrize("form", [bytes.hex, lambda key: key.hex().upper()])
def test_finds_the_key_in_hex(search, form):
    assert found(search, b'{"k":"' + form(KEY).encode() + b'"}') == [("class key", 6)]


@pytest.mark.parametrize("before", range(6))
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_finds_the_key_inside_base64_of_anything_around_it(search, before, encode):
    text = encode(os.urandom(before) + KEY + os.urandom(7))
    assert [what for what, _ in found(search, b"x" + text)] == ["class key"]


@pytest.mark.parametrize("start", [0, 1, 17, 32, 4000, len(MODEL) - MIN_RUN])
@pytest.mark.parametrize("offset", [0, 1, 15, 31, 32, 100])
def test_finds_any_64_bytes_of_a_document_at_any_offset(search, start, offset):
    data = bytes(offset) + MODEL[start : start + MIN_RUN] + bytes(70)
    leaks = found(search, data)
    assert [what for what, _ in leaks] == ["model"]
    assert leaks[0][1] <= offset  # a neighbouring byte may happen to be equal, too


def test_every_start_of_a_64_byte_run_is_found(search):
    for start in range(0, len(MODEL) - MIN_RUN, 7):
        assert found(search, b"\xff" * (start % 32) + MODEL[start : start + MIN_RUN]), start


def test_63_equal_bytes_are_no_leak(search):
    before, after = (MODEL[99] ^ 1).to_bytes(1, "big"), (MODEL[163] ^ 1).to_bytes(1, "big")
    assert found(search, bytes(40) + before + MODEL[100:163] + after) == []


def test_a_whole_copy_is_told_once_and_two_copies_twice(search):
    assert found(search, MODEL) == [("model", 0)]
    assert len(found(search, MODEL + b"between" + MODEL)) == 2


def test_runs_of_zeros_in_a_document_are_no_evidence():
    search = LeakSearch(keys={}, documents={"sparse": MODEL[:200] + bytes(500) + MODEL[200:400]})
    assert found(search, bytes(10_000)) == []
    assert found(search, MODEL[200:300]) == [("sparse", 0)]


def test_scan_goes_through_a_tree_and_leaves_out_what_is_excluded(search, tmp_path):
    source = tmp_path / "build-machine" / "source"
    source.mkdir(parents=True)
    (source / "model").write_bytes(MODEL)
    planted = tmp_path / "devices" / "edge-01" / "log"
    planted.parent.mkdir(parents=True)
    planted.write_bytes(b"error while reading " + MODEL[500:700])
    (tmp_path / "key").write_text(KEY.hex())
    result = search.scan(tmp_path, exclude=[source])
    assert {(leak.what, leak.file.name, leak.offset) for leak in result.leaks} == {
        ("class key", "key", 0),
        ("model", "log", 20),
    }
    assert result.files == 2
    assert result.size == 64 + 220


def test_scan_follows_no_link_and_opens_no_pipe_or_socket(search, tmp_path):
    outside = tmp_path / "outside"
    outside.write_bytes(MODEL)
    scanned = tmp_path / "scanned"
    scanned.mkdir()
    (scanned / "link").symlink_to(outside)
    os.mkfifo(scanned / "pipe")
    assert search.scan(scanned).leaks == ()
    assert search.scan(scanned).files == 0


def test_a_leak_never_shows_the_secret(search, tmp_path):
    (tmp_path / "file").write_bytes(KEY + MODEL)
    shown = repr(search.scan(tmp_path))
    assert KEY.hex() not in shown
    assert repr(KEY)[2:20] not in shown

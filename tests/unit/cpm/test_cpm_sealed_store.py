"""Sealed files: any payload comes back whole, and no change to a file goes unnoticed."""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from cpm.sealed_store import SEGMENT_BYTES, TAG_BYTES, SealedStore, sealed_size
from shared.errors import StorageError

HEADER = 19
SEALED_SEGMENT = SEGMENT_BYTES + TAG_BYTES


@pytest.fixture
def store(tmp_path):
    return SealedStore(tmp_path / "packages")


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "packages"


def _seal(store, payload, chunk=SEGMENT_BYTES):
    with store.create() as writer:
        for start in range(0, len(payload), chunk):
            writer.write(memoryview(payload)[start : start + chunk])
        return writer.finish()


def _open(store, sealed):
    with store.open(sealed) as reader:
        return b"".join(reader.segments())


@pytest.mark.parametrize(
    "size", [0, 1, 15, 16, SEGMENT_BYTES - 1, SEGMENT_BYTES, SEGMENT_BYTES + 1, 2 * SEGMENT_BYTES, 2_500_000]
)
@pytest.mark.parametrize("chunk", [1000, SEGMENT_BYTES - 1, SEGMENT_BYTES])
def test_payload_comes_back(store, folder, size, chunk):
    payload = os.urandom(size)

    sealed = _seal(store, payload, chunk)

    assert sealed.size == size
    assert (folder / sealed.name).stat().st_size == sealed_size(size)
    assert _open(store, sealed) == payload
    assert store.is_intact(sealed)


def test_same_payload_is_sealed_differently_every_time(store, folder):
    one, other = _seal(store, b"same"), _seal(store, b"same")

    assert (folder / one.name).read_bytes()[HEADER:] != (folder / other.name).read_bytes()[HEADER:]
    assert store.same_payload(one, other)
    assert not store.same_payload(one, _seal(store, b"sama"))
    assert not store.same_payload(one, _seal(store, b"longer"))


def _swap_segments(data):
    first, second = data[HEADER : HEADER + SEALED_SEGMENT], data[HEADER + SEALED_SEGMENT :][:SEALED_SEGMENT]
    return data[:HEADER] + second + first + data[HEADER + 2 * SEALED_SEGMENT :]


def _flip(position):
    return lambda data: data[:position] + bytes([data[position] ^ 0x80]) + data[position + 1 :]


@pytest.mark.parametrize(
    "change",
    [
        _flip(0),
        _flip(9),
        _flip(12),
        _flip(HEADER),
        _flip(HEADER + SEALED_SEGMENT - 1),
        _flip(-1),
        _swap_segments,
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: data[: HEADER + SEALED_SEGMENT],
        lambda data: b"",
    ],
    ids=["magic", "size", "prefix", "first", "tag", "last", "swapped", "cut", "longer", "dropped", "empty"],
)
def test_changed_file_does_not_open(store, folder, change):
    sealed = _seal(store, os.urandom(2 * SEGMENT_BYTES + 5))
    path = folder / sealed.name
    path.write_bytes(change(path.read_bytes()))

    with pytest.raises(StorageError) as refused:
        _open(store, sealed)

    assert refused.value.code == "storage_damaged"


def test_file_cut_at_a_segment_does_not_pass_for_a_shorter_one(store, folder):
    sealed = _seal(store, os.urandom(2 * SEGMENT_BYTES))
    path = folder / sealed.name
    path.write_bytes(path.read_bytes()[: HEADER + SEALED_SEGMENT])

    with pytest.raises(StorageError):
        _open(store, replace(sealed, size=SEGMENT_BYTES))


def test_exchanged_files_do_not_open(store, folder):
    one, other = _seal(store, b"one"), _seal(store, b"two")
    (folder / one.name).write_bytes((folder / other.name).read_bytes())

    with pytest.raises(StorageError):
        _open(store, one)


def test_writer_that_is_left_unfinished_leaves_nothing(store, folder):
    with store.create() as writer:
        writer.write(memoryview(b"x" * 3_000_000))
        assert len(list(folder.iterdir())) == 1

    assert list(folder.iterdir()) == []


def test_tidying_keeps_what_it_is_told_and_what_is_not_its_own(store, folder):
    kept, dropped = _seal(store, b"kept"), _seal(store, b"dropped")
    (folder / "notes.txt").write_text("somebody else's")

    assert store.remove_others({kept.name}) == 1

    assert {path.name for path in folder.iterdir()} == {kept.name, "notes.txt"}
    assert not store.is_intact(dropped)


def test_folder_that_others_may_write_to_is_refused(folder):
    folder.mkdir()
    folder.chmod(0o777)

    with pytest.raises(StorageError) as refused:
        SealedStore(folder)

    assert refused.value.code == "state_exposed"


# ── quota ─────────────────────────────────────────────────────────────────────────────────────────────────

QUOTA = 2 * sealed_size(1000)


@pytest.fixture
def narrow(tmp_path):
    return SealedStore(tmp_path / "packages", quota=QUOTA)


def _refused(error):
    return error.value.code == "storage_full"


def test_room_is_reserved_before_the_first_byte(narrow, folder):
    with narrow.create(1000), narrow.create(1000):
        assert narrow.used == QUOTA
        with pytest.raises(StorageError) as refused:
            narrow.create(0)
        assert _refused(refused)
        assert len(list(folder.iterdir())) == 2

    assert narrow.used == 0
    assert list(folder.iterdir()) == []


def test_payload_that_is_longer_than_was_expected_is_stopped_while_it_is_written(narrow, folder):
    with narrow.create(10) as writer:
        writer.write(memoryview(bytes(1000)))
        with pytest.raises(StorageError) as refused:
            writer.write(memoryview(bytes(2000)))

    assert _refused(refused)
    assert narrow.used == 0
    assert list(folder.iterdir()) == []


def test_payload_of_exactly_the_quota_fits_and_one_byte_more_does_not(tmp_path):
    store = SealedStore(tmp_path / "exact", quota=sealed_size(SEGMENT_BYTES + 1))

    with pytest.raises(StorageError):
        store.create(SEGMENT_BYTES + 2)
    sealed = _seal(store, bytes(SEGMENT_BYTES + 1))

    assert store.used == store.quota == (tmp_path / "exact" / sealed.name).stat().st_size


def test_what_was_expected_and_did_not_come_is_given_back(narrow):
    with narrow.create(1500) as writer:
        writer.write(memoryview(b"short"))
        sealed = writer.finish()

    assert narrow.used == sealed_size(5)
    narrow.remove(sealed.name)
    assert narrow.used == 0
    narrow.remove(sealed.name)
    assert narrow.used == 0


def test_files_of_before_count_and_stay_even_beyond_the_quota(narrow, folder):
    kept = _seal(narrow, bytes(1000))
    (folder / ("0" * 32 + ".part")).write_bytes(bytes(500))

    smaller = SealedStore(folder, quota=10)
    assert smaller.used == sealed_size(1000) + 500
    assert smaller.remove_others({kept.name}) == 1

    assert smaller.used == sealed_size(1000)
    assert _open(smaller, kept) == bytes(1000)
    with pytest.raises(StorageError) as refused:
        smaller.create(0)
    assert _refused(refused)


def test_many_writers_at_once_stay_within_the_quota(tmp_path):
    store = SealedStore(tmp_path / "shared", quota=5 * sealed_size(100_000))

    def install(_number):
        try:
            return _seal(store, bytes(100_000), chunk=1000)
        except StorageError:
            return None

    with ThreadPoolExecutor(16) as pool:
        made = [sealed for sealed in pool.map(install, range(64)) if sealed is not None]

    stored = sum(path.stat().st_size for path in (tmp_path / "shared").iterdir())
    assert store.used == stored == len(made) * sealed_size(100_000)
    assert 1 <= len(made) <= 5

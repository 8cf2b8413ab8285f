"""What every store of the audit chain's segments keeps: one suite, run on each adapter."""

import secrets
import threading

import pytest
from simulators.audit_segments import MemorySegments

from functions.adapters.audit_blobs import BlobSegments
from functions.adapters.audit_folder import FolderSegments
from functions.audit_chain import AuditChain
from shared.audit.chain import verify
from shared.errors import Conflict

NAME = "000000000000001.jsonl"


@pytest.fixture(params=["memory", "folder", "simulated", "azurite"])
def open_store(request, tmp_path, make_container):
    """What opens the one store again, as another process would."""
    if request.param == "memory":
        store = MemorySegments()
        return lambda: store
    if request.param == "folder":
        return lambda: FolderSegments(tmp_path / "audit")
    url, credential = make_container(request.param)
    return lambda: BlobSegments.connect(url, credential)


@pytest.fixture
def store(open_store):
    return open_store()


def test_nothing_is_there_at_first(store):
    assert list(store.names()) == []


def test_what_is_appended_is_read_back_from_anywhere(store):
    store.create(NAME)
    store.append(NAME, b"one\n", offset=0)
    store.append(NAME, b"two\nthree\n", offset=4)
    assert store.read(NAME) == b"one\ntwo\nthree\n"
    assert store.read(NAME, offset=4) == b"two\nthree\n"
    assert store.read(NAME, offset=14) == b""


def test_an_empty_segment_reads_as_nothing(store):
    store.create(NAME)
    assert store.read(NAME) == b""


def test_creating_again_leaves_what_is_there(store):
    store.create(NAME)
    store.append(NAME, b"one\n", offset=0)
    store.create(NAME)
    assert store.read(NAME) == b"one\n"


@pytest.mark.parametrize("offset", [0, 3, 5])
def test_an_append_elsewhere_than_at_the_end_is_a_conflict_and_changes_nothing(store, offset):
    store.create(NAME)
    store.append(NAME, b"one\n", offset=0)
    with pytest.raises(Conflict) as caught:
        store.append(NAME, b"two\n", offset=offset)
    assert caught.value.code == "audit_behind"
    assert store.read(NAME) == b"one\n"


def test_names_are_sorted(store):
    for first in (10001, 1, 20001):
        store.create(f"{first:015}.jsonl")
    assert list(store.names()) == [f"{first:015}.jsonl" for first in (1, 10001, 20001)]


def test_writers_that_race_make_one_chain_and_lose_nothing(open_store):
    records = [
        {"writer": writer, "n": n, "id": secrets.token_hex(8)} for writer in range(4) for n in range(10)
    ]
    failures = []

    def write(writer):
        chain = AuditChain(open_store())
        try:
            for record in records:
                if record["writer"] == writer:
                    chain.append([record])
        except Exception as error:  # noqa: BLE001 - told below
            failures.append(error)

    threads = [threading.Thread(target=write, args=(writer,)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert failures == []
    entries = AuditChain(open_store()).read(after=0, limit=1000)
    assert verify(entries).seq == len(records)
    written = [dict(entry.record) for entry in entries]
    for writer in range(4):
        mine = [record for record in written if record["writer"] == writer]
        assert mine == [record for record in records if record["writer"] == writer]

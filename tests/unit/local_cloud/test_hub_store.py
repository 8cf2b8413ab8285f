import asyncio
import datetime as dt
import sqlite3
import stat

import pytest

from local_cloud.twin_hub import events
from local_cloud.twin_hub.documents import TwinUpdate
from local_cloud.twin_hub.faults import Fault, HubError
from local_cloud.twin_hub.identities import AuthenticationKind, IdentityRequest, Status
from local_cloud.twin_hub.store import Store
from shared.errors import StorageError
from shared.types import DeviceId

A, B, MODULE = DeviceId("a"), DeviceId("b"), DeviceId("a/m")
AT = dt.datetime(2026, 3, 4, tzinfo=dt.UTC)
ANYBODY = IdentityRequest.parse({})


def opened(folder):
    return Store(folder / "hub.db", hub_name="hub", clock=lambda: AT)


@pytest.fixture
def store(tmp_path):
    store = opened(tmp_path)
    yield store
    store.close()


def read_events(store, **wanted):
    return asyncio.run(store.events.read(**({"after": 0, "most": 100, "seconds": 0} | wanted)))


def desired(**values):
    return TwinUpdate(tags=None, desired=values)


def test_everything_is_there_after_opening_again(tmp_path):
    store = opened(tmp_path)
    made = store.create_identity(A, ANYBODY)
    store.create_identity(MODULE, ANYBODY)
    store.update_twin(A, TwinUpdate(tags={"t": 1}, desired={"d": 2}))
    twin = store.patch_reported(A, {"r": 3})
    store.save_session(A, frozenset({"x/#"}))
    store.close()

    store = opened(tmp_path)

    assert store.identity(A) == made
    assert store.twin(A) == twin
    assert store.session(A) == {"x/#"}
    assert store.session(MODULE) is None
    assert [event["seq"] for event in read_events(store)[0]] == [1, 2]
    store.close()


def test_file_is_its_owners_alone(tmp_path, store):
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}

    assert modes == {0o600}


def test_refused_write_changes_nothing(store):
    store.create_identity(A, ANYBODY)
    before = store.twin(A)

    with pytest.raises(HubError):
        store.patch_reported(A, {"a.b": 1})

    assert store.twin(A) == before
    assert read_events(store) == ([], 0)


def test_write_that_the_disk_refuses_changes_nothing(store):
    store.create_identity(A, ANYBODY)
    before = store.twin(A)
    store._database.execute("PRAGMA query_only = ON")

    with pytest.raises(StorageError):
        store.patch_reported(A, {"a": 1})
    with pytest.raises(StorageError):
        store.create_identity(B, ANYBODY)

    store._database.execute("PRAGMA query_only = OFF")
    assert store.twin(A) == before
    assert B not in store
    assert read_events(store) == ([], 0)
    assert store.patch_reported(A, {"a": 1}).reported.version == 2


def test_deleting_a_device_takes_all_that_is_its_own(store):
    for key in (A, MODULE, B):
        store.create_identity(key, ANYBODY)
        store.save_session(key, frozenset())

    gone = store.delete_identity(A, if_match="*")

    assert gone == [A, MODULE]
    assert store.identity_keys() == [B]
    assert store.session(MODULE) is None
    with pytest.raises(HubError):
        store.twin(A)


def test_device_made_again_starts_anew(store):
    first = store.create_identity(A, ANYBODY)
    store.patch_reported(A, {"r": 1})
    store.delete_identity(A, if_match=first.etag)

    again = store.create_identity(A, ANYBODY)

    assert again.generation_id != first.generation_id
    assert store.twin(A).reported.values == {}


@pytest.mark.parametrize(
    ("act", "fault"),
    [
        (lambda store: store.create_identity(A, ANYBODY), Fault.DEVICE_EXISTS),
        (lambda store: store.create_identity(DeviceId("b/m"), ANYBODY), Fault.DEVICE_NOT_FOUND),
        (lambda store: store.update_identity(A, ANYBODY, if_match="old"), Fault.PRECONDITION_FAILED),
        (lambda store: store.update_identity(B, ANYBODY, if_match="*"), Fault.DEVICE_NOT_FOUND),
        (lambda store: store.delete_identity(A, if_match="old"), Fault.PRECONDITION_FAILED),
        (lambda store: store.update_twin(A, desired(a=1), if_match="old"), Fault.PRECONDITION_FAILED),
        (lambda store: store.twin(MODULE), Fault.MODULE_NOT_FOUND),
    ],
)
def test_write_out_of_order_is_refused(store, act, fault):
    store.create_identity(A, ANYBODY)

    with pytest.raises(HubError) as caught:
        act(store)

    assert caught.value.fault is fault
    assert store.identity_keys() == [A]


def test_file_that_is_no_database_is_told(tmp_path):
    (tmp_path / "hub.db").write_bytes(b"not a database, but longer than its header" * 100)

    with pytest.raises(StorageError, match=r"hub\.db"):
        opened(tmp_path)


def test_file_of_another_version_is_told(tmp_path):
    database = sqlite3.connect(tmp_path / "hub.db")
    database.execute("PRAGMA user_version = 99")
    database.close()

    with pytest.raises(StorageError, match="version 1, found 99"):
        opened(tmp_path)


def test_events_are_bounded_and_numbers_are_never_used_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(events, "RETAINED", 10)
    monkeypatch.setattr(events, "_TRIM_EVERY", 5)
    store = opened(tmp_path)
    store.create_identity(A, ANYBODY)
    for number in range(25):
        store.patch_reported(A, {"n": number})
    store.close()

    store = opened(tmp_path)
    store.patch_reported(A, {"n": 25})
    kept, last = read_events(store)

    assert [event["seq"] for event in kept] == list(range(16, 27))
    assert last == 26
    store.close()


def test_reader_beyond_the_newest_event_is_sent_back(store):
    store.create_identity(A, ANYBODY)
    store.patch_reported(A, {"n": 1})

    assert read_events(store, after=50) == ([], 1)


def test_reader_waits_for_a_commit(store):
    store.create_identity(A, ANYBODY)

    async def both():
        waiting = asyncio.create_task(store.events.read(after=0, most=10, seconds=30))
        await asyncio.sleep(0)
        assert not waiting.done()
        store.patch_reported(A, {"n": 1})
        return await waiting

    told, last = asyncio.run(both())

    assert told[0]["body"]["properties"]["reported"]["n"] == 1
    assert last == 1


def test_identity_is_read_in_every_kind():
    thumbprint = {"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": "ab" * 20}}
    request = IdentityRequest.parse({"authentication": thumbprint, "status": "disabled"})

    assert request.authentication.thumbprints == ("AB" * 20, None)
    assert request.status is Status.DISABLED
    ca = IdentityRequest.parse({"authentication": {"type": "certificateAuthority"}})
    assert ca.authentication.kind is AuthenticationKind.CERTIFICATE_AUTHORITY
    assert ca.authentication.keys == (None, None)


def test_identity_shows_no_keys():
    request = IdentityRequest.parse({})

    assert request.authentication.keys[0] not in repr(request)


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"status": "off"},
        {"statusReason": "x" * 129},
        {"capabilities": {"iotEdge": "yes"}},
        {"authentication": "sas"},
        {"authentication": {"type": "none"}},
        {"authentication": {"symmetricKey": {"primaryKey": "short"}}},
        {"authentication": {"symmetricKey": {"primaryKey": 1}}},
        {"authentication": {"type": "selfSigned"}},
        {"authentication": {"type": "selfSigned", "x509Thumbprint": {"primaryThumbprint": "zz"}}},
    ],
)
def test_identity_that_is_none_is_refused(body):
    with pytest.raises(HubError) as caught:
        IdentityRequest.parse(body)

    assert caught.value.fault is Fault.ARGUMENT_INVALID

"""The policy in force: what comes into force, what does not, how long it stays, and publishing."""

from __future__ import annotations

import hashlib
import json

import pytest
from simulators.app import App
from simulators.build_machine import BuildMachine
from simulators.cloud import APP
from simulators.policy_floor import MemoryFloor

from functions.policy_source import PolicySource, StoredPolicy
from shared.errors import Conflict, EdbError, NotFound, TransportError
from shared.policy.document import MAX_POLICY_BYTES, load_policy


def document(serial=1, **changes):
    return json.dumps({"version": "1.0.0", "id": "p", "serial": serial, "rules": [], **changes}).encode()


class MemoryStore:
    """A :class:`functions.policy_source.PolicyStore`; ``data`` rests in it, ``reads`` counts."""

    def __init__(self, data=None):
        self.data = data
        self.reads = 0
        self.is_away = False

    @property
    def etag(self):
        return f'"{hashlib.sha256(self.data).hexdigest()}"'

    def read(self, *, unless):
        self.reads += 1
        if self.is_away:
            raise TransportError("away", code="storage_unavailable")
        if self.data is None:
            raise NotFound("none", code="policy_missing")
        return None if self.etag == unless else StoredPolicy(data=self.data, etag=self.etag)

    def write(self, data, *, etag):
        if etag != (None if self.data is None else self.etag):
            raise Conflict("changed", code="policy_changed")
        self.data = data
        return self.etag


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store():
    return MemoryStore(document(7))


@pytest.fixture
def floor():
    return MemoryFloor()


@pytest.fixture
def restart(store, floor, clock):
    """Make a source over what rests, as a process that starts does."""
    return lambda: PolicySource(store, floor, refresh_seconds=30, max_age_seconds=600, monotonic=clock)


@pytest.fixture
def source(restart):
    return restart()


@pytest.fixture
def looking(source, store, clock):
    return source, store, clock


def unavailable(source):
    with pytest.raises(TransportError) as caught:
        source.current()
    return caught.value.code == "policy_unavailable"


class TestLooking:
    def test_a_policy_comes_into_force_and_raises_the_floor(self, source, store, floor):
        in_force = source.current()
        assert (in_force.policy.serial, in_force.data, in_force.etag) == (7, store.data, store.etag)
        assert floor.read().serial == 7

    def test_the_store_is_looked_at_once_in_a_while(self, source, store, clock):
        for _ in range(3):
            source.current()
        assert store.reads == 1
        clock.now += 30
        source.current()
        assert store.reads == 2

    def test_a_newer_one_comes_into_force_with_the_next_look(self, source, store, floor, clock):
        source.current()
        store.data = document(9)
        assert source.current().policy.serial == 7
        clock.now += 30
        assert source.current().policy.serial == 9
        assert floor.read().serial == 9

    @pytest.mark.parametrize(
        ("found", "code"),
        [
            (b"{", "malformed"),
            (document(8, extra=1), "malformed"),
            (document(8) + b" " * MAX_POLICY_BYTES, "malformed"),
            (document(6), "policy_rollback"),
            (document(7, id="q"), "policy_serial_reused"),
            (None, "policy_missing"),
        ],
    )
    def test_what_is_no_good_leaves_the_last_good_one_in_force_and_is_told(
        self, looking, caplog, found, code
    ):
        source, store, clock = looking
        source.current()
        store.data = found
        for _ in range(3):
            clock.now += 30
            assert source.current().policy.serial == 7
        assert source.status().fault.code == code
        told = [record for record in caplog.records if record.getMessage() == "policy_not_taken"]
        assert [(record.code, record.serial_in_force) for record in told] == [(code, 7)]

    def test_what_is_put_right_is_told_no_longer(self, source, store, clock):
        source.current()
        store.data = b"{"
        clock.now += 30
        source.current()
        store.data = document(8)
        clock.now += 30
        assert source.current().policy.serial == 8
        assert source.status().fault is None

    @pytest.mark.parametrize("cause", ["away", "broken"])
    def test_the_last_good_one_ends_when_nothing_confirms_it(self, source, store, clock, cause):
        source.current()
        store.is_away, store.data = cause == "away", document(7) if cause == "away" else b"{"
        clock.now += 599
        assert source.current().policy.serial == 7
        clock.now += 1
        assert unavailable(source)
        assert source.status().in_force is None
        store.is_away, store.data = False, document(7)
        clock.now += 30
        assert source.current().policy.serial == 7

    def test_a_floor_that_is_away_lets_nothing_new_in(self, source, store, floor, clock):
        source.current()
        store.data = document(8)
        floor.is_away = True
        clock.now += 30
        assert source.current().policy.serial == 7
        floor.is_away = False
        clock.now += 30
        assert source.current().policy.serial == 8


class TestRestart:
    def test_an_older_one_is_refused_after_a_restart_too(self, source, restart, store):
        source.current()
        store.data = document(6)
        fresh = restart()
        assert unavailable(fresh)
        assert fresh.status().fault.code == "policy_rollback"

    def test_other_bytes_of_the_same_serial_are_refused_after_a_restart_too(self, source, restart, store):
        source.current()
        store.data = document(7, id="q")
        fresh = restart()
        assert unavailable(fresh)
        assert fresh.status().fault.code == "policy_serial_reused"

    def test_the_same_one_comes_into_force_again(self, source, restart):
        source.current()
        assert restart().current().policy.serial == 7

    def test_without_a_floor_to_ask_nothing_is_in_force(self, restart, floor, clock):
        floor.is_away = True
        fresh = restart()
        assert unavailable(fresh)
        floor.is_away = False
        clock.now += 5
        assert fresh.current().policy.serial == 7

    def test_a_source_that_is_away_is_not_asked_by_every_request(self, restart, store, clock):
        store.is_away = True
        fresh = restart()
        for _ in range(5):
            assert unavailable(fresh)
        assert store.reads == 1
        clock.now += 5
        assert unavailable(fresh)
        assert store.reads == 2


class TestPublishing:
    def test_a_higher_serial_is_in_force_at_once(self, source, store, floor):
        assert source.publish(document(8), etag=None).policy.serial == 8
        assert source.current().policy.serial == 8
        assert (store.data, floor.read().serial) == (document(8), 8)

    def test_the_first_one_may_have_any_serial(self, source, store):
        store.data = None
        assert source.publish(document(0), etag=None).policy.serial == 0

    @pytest.mark.parametrize("serial", [0, 6, 7])
    def test_a_serial_that_does_not_rise_is_refused(self, source, store, serial):
        source.current()
        with pytest.raises(Conflict) as caught:
            source.publish(document(serial), etag=None)
        assert caught.value.code == "policy_serial"
        assert store.data == document(7)

    def test_the_floor_counts_even_if_the_document_was_rolled_back(self, source, store):
        source.current()
        store.data = document(2)
        with pytest.raises(Conflict, match="expected more than 7, found 5"):
            source.publish(document(5), etag=None)

    def test_a_document_that_nobody_looked_at_yet_counts(self, source, store):
        with pytest.raises(Conflict, match="expected more than 7"):
            source.publish(document(7, id="q"), etag=None)

    def test_a_broken_document_is_replaced(self, source, store):
        source.current()
        store.data = b"{"
        assert source.publish(document(8), etag=None).policy.serial == 8

    def test_another_etag_than_the_one_that_was_seen_is_refused(self, source, store):
        seen = source.current().etag
        store.data = document(8)
        with pytest.raises(Conflict) as caught:
            source.publish(document(9), etag=seen)
        assert caught.value.code == "policy_changed"
        assert store.data == document(8)

    def test_a_crash_between_document_and_floor_is_made_good_by_the_next_look(self, source, restart, floor):
        source.current()
        floor.raise_to = lambda _: (_ for _ in ()).throw(EdbError("killed"))
        with pytest.raises(EdbError, match="killed"):
            source.publish(document(8), etag=None)
        del floor.raise_to
        assert restart().current().policy.serial == 8
        assert floor.read().serial == 8


class TestContract:
    def publish(self, app, data, **headers):
        return app.request("PublishPolicy", data, method="PUT", headers=headers)

    def raised(self, app, **changes):
        found = json.loads(app.policy_file.read_bytes())
        return json.dumps({**found, "serial": found["serial"] + 1, **changes}, indent=1).encode()

    def test_the_policy_is_shown_as_loaded(self, app):
        reply = app.request("Policy", method="GET")
        data = app.policy_file.read_bytes()
        policy = load_policy(data, where="file")
        assert (reply.status, reply.body) == (200, data)
        assert reply.headers["Content-Type"] == "application/json"
        assert reply.headers["x-policy-serial"] == str(policy.serial)
        assert reply.headers["x-policy-sha256"] == policy.digest.hex()
        assert reply.headers["ETag"] == f'"{policy.digest.hex()}"'

    def test_publishing_changes_what_is_allowed_at_once_and_is_on_record(self, app, audit):
        app.cloud.class_keys.provision(APP, bits=256)
        machine = BuildMachine(app.cloud.authority)
        assert app.request("WrapKey", machine.body()).status == 200
        shown = app.request("Policy", method="GET")
        data = self.raised(app, rules=[])
        reply = self.publish(app, data, **{"If-Match": shown.headers["ETag"]})
        sha256 = hashlib.sha256(data).hexdigest()
        policy = load_policy(data, where="test")
        assert (reply.status, reply.document) == (
            200,
            {"id": policy.id, "serial": policy.serial, "sha256": sha256},
        )
        assert app.policy_file.read_bytes() == data
        refused = app.request("WrapKey", machine.body())
        assert (refused.status, refused.document["code"]) == (403, "policy_denied")
        assert [(each["event"], each["outcome"], each["policy_sha256"]) for each in audit()[-2:]] == [
            ("publish_policy", "allowed", sha256),
            ("wrap", "denied", sha256),
        ]

    def test_a_serial_that_does_not_rise_is_a_conflict(self, app, audit):
        reply = self.publish(app, app.policy_file.read_bytes())
        assert (reply.status, reply.document["code"]) == (409, "policy_serial")
        assert (audit()[-1]["outcome"], audit()[-1]["reason"]) == ("failed", "policy_serial")

    def test_a_fault_is_pointed_at_and_changes_nothing(self, app):
        before = app.policy_file.read_bytes()
        rule = {"id": "r", "keys": ["a/b"], "operations": ["wrap"], "algorithms": ["RSA1_5"], "release": {}}
        reply = self.publish(app, self.raised(app, rules=[rule]))
        assert (reply.status, reply.document["code"]) == (400, "malformed")
        assert "at /rules/0/keys/0: " in reply.document["detail"]
        assert app.policy_file.read_bytes() == before

    def test_a_policy_that_somebody_else_changed_is_not_overwritten(self, app):
        reply = self.publish(app, self.raised(app), **{"If-Match": '"0x0"'})
        assert (reply.status, reply.document["code"]) == (412, "policy_changed")
        assert self.publish(app, self.raised(app), **{"If-Match": "*"}).status == 200

    def test_one_that_is_too_long_is_not_read(self, app):
        reply = self.publish(app, b" " * (MAX_POLICY_BYTES + 1))
        assert (reply.status, reply.document["code"]) == (413, "body_too_large")

    def test_it_takes_the_administrators_key(self, app):
        names = ("Policy", "PublishPolicy", "Audit")
        levels = {name: app.functions[name].get_trigger().auth_level.name for name in names}
        assert levels == {"Policy": "FUNCTION", "PublishPolicy": "ADMIN", "Audit": "FUNCTION"}

    def test_an_older_policy_releases_nothing_after_a_restart(self, app, tmp_path):
        app.cloud.class_keys.provision(APP, bits=256)
        app.cloud.enrol("edge-01")
        before = app.policy_file.read_bytes()
        assert self.publish(app, self.raised(app)).status == 200
        fresh = App(app.cloud, tmp_path)  # writes the older document back
        assert fresh.policy_file.read_bytes() == before
        reply = fresh.request("WrapKey", BuildMachine(app.cloud.authority).body())
        assert (reply.status, reply.document["code"]) == (503, "policy_unavailable")
        assert fresh.request("Policy", method="GET").status == 503
        twin = app.cloud.registry.snapshot("edge-01")
        with pytest.raises(TransportError, match="no release policy is in force"):
            fresh.tick()
        assert app.cloud.registry.snapshot("edge-01") == twin

    def test_a_pass_goes_by_the_policy_in_force_when_it_begins(self, app):
        app.cloud.class_keys.provision(APP, bits=256)
        app.cloud.enrol("edge-01")
        app.tick()
        app.drain()
        assert APP in app.cloud.wrapped("edge-01")
        assert self.publish(app, self.raised(app, rules=[])).status == 200
        app.tick()
        app.drain()
        assert app.cloud.wrapped("edge-01") == {}

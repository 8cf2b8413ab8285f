"""RebindDevice: who may be bound to what, who is told of it, and what happens at once."""

from __future__ import annotations

import json

import pytest
from simulators.cloud import APP
from simulators.fleet import Device, policy_document

from shared.errors import Conflict, TransportError


@pytest.fixture
def app(make_app, cloud):
    """The app under a policy that asks for no certificate, with a device that is bound to its first key."""
    document = policy_document(cloud.authority.root_sha256)
    conditions = document["rules"][0]["release"]["allOf"]
    document["rules"][0]["release"]["allOf"] = [
        each for each in conditions if not each["claim"].startswith("x509.")
    ]
    app = make_app(rules=document["rules"])
    app.request("ProvisionKey", {"key_name": APP})
    enrol(app, "edge-01")
    return app


def enrol(app, device_id):
    app.cloud.enrol(device_id)
    app.tick()
    app.drain()
    app.cloud.wait(seconds=1)


def replaced(app, device_id="edge-01"):
    """Let the device come back with another key and no certificate; return it as it is now."""
    other = Device.make(app.cloud.authority, device_id)
    report = other.report(sequence=app.cloud.release(device_id).sequence)
    app.cloud.registry.report(device_id, {**report, "device_cert": None})
    app.tick()
    app.drain()
    app.cloud.wait(seconds=1)
    assert app.cloud.tag(device_id)["reason"] == "key_not_bound"
    return other


def rebind(app, other, **changes):
    body = {"device_id": other.device_id, "fingerprint": other.public_key.fingerprint.hex(), **changes}
    return app.request("RebindDevice", body)


@pytest.mark.parametrize("device_id", ["edge-01", "edge-02/agent"])
def test_a_device_or_module_is_bound_to_its_new_key_at_once(app, device_id):
    if device_id != "edge-01":
        enrol(app, device_id)
    bound = app.cloud.release(device_id).fingerprint.hex()
    other = replaced(app, device_id)
    reply = rebind(app, other)
    assert (reply.status, reply.document) == (
        200,
        {"device_id": device_id, "fingerprint": other.public_key.fingerprint.hex(), "replaces": bound},
    )
    assert [json.loads(text)["devices"] for text in app.queues["distribute-pages"]] == [[device_id]]
    app.drain()
    assert set(app.cloud.wrapped(device_id)) == {APP}
    assert app.cloud.release(device_id).fingerprint == other.public_key.fingerprint
    assert "rebind" not in app.cloud.tag(device_id)


def test_no_other_device_is_read_or_written_for_it(app):
    enrol(app, "edge-02")
    before = app.cloud.registry.snapshot("edge-02")
    rebind(app, replaced(app))
    app.drain()
    assert app.cloud.registry.snapshot("edge-02") == before


def test_if_the_message_gets_lost_the_next_pass_does_it(app):
    other = replaced(app)
    rebind(app, other)
    app.queues.clear()
    app.tick()
    app.drain()
    assert app.cloud.release().fingerprint == other.public_key.fingerprint


def test_it_can_be_repeated_before_and_after_it_was_done(app):
    other = replaced(app)
    first = rebind(app, other)
    writes = len(app.cloud.registry.writes)
    assert rebind(app, other).document == first.document
    assert len(app.cloud.registry.writes) == writes
    app.drain()
    writes = len(app.cloud.registry.writes)
    assert rebind(app, other).document == {**first.document, "replaces": None}
    app.drain()
    assert len(app.cloud.registry.writes) == writes


def test_what_the_policy_asks_for_is_asked_for_all_the_same(app):
    other = replaced(app)
    app.cloud.registry.disable("edge-01")
    assert rebind(app, other).status == 200
    app.drain()
    assert app.cloud.tag()["reason"] == "device_disabled"
    assert app.cloud.wrapped() == {}


def test_the_key_that_is_bound_is_the_one_that_was_named(app):
    """Whoever reports another key after the operator has looked gains nothing."""
    other = replaced(app)
    rebind(app, other)
    intruder = Device.make(app.cloud.authority)
    report = intruder.report(sequence=app.cloud.release().sequence)
    app.cloud.registry.report("edge-01", {**report, "device_cert": None})
    app.drain()
    assert app.cloud.tag()["reason"] == "key_not_bound"
    assert app.cloud.wrapped() == {}


class TestRefusals:
    def refused(self, app, reply, audit):
        """Return what a refusal says; it left the twin alone, put nothing on a queue, and is on record."""
        assert app.queues["distribute-pages"] == []
        assert "rebind" not in (app.cloud.tag() or {})
        record = audit()[-1]
        code = reply.document["code"]
        assert (record["event"], record["outcome"], record["reason"]) == ("rebind", "failed", code)
        return reply.status, code

    def test_another_key_than_named(self, app, audit):
        other = replaced(app)
        wrong = "0f" * 32
        reply = rebind(app, other, fingerprint=wrong)
        assert self.refused(app, reply, audit) == (409, "fingerprint_mismatch")
        assert other.public_key.fingerprint.hex() in reply.document["detail"]
        assert "itself shows" in reply.document["hint"]

    @pytest.mark.parametrize("reported", [None, "AAAA"])
    def test_no_usable_key(self, app, audit, reported):
        other = replaced(app)
        app.cloud.registry.report("edge-01", {"device_public_key": reported})
        assert self.refused(app, rebind(app, other), audit) == (409, "key_not_reported")

    def test_nothing_is_bound(self, app, audit):
        fresh = app.cloud.enrol("edge-09")
        assert self.refused(app, rebind(app, fresh), audit) == (409, "nothing_bound")

    def test_a_release_for_somebody_else_binds_nothing(self, app, audit):
        fresh = app.cloud.enrol("edge-09")
        app.cloud.registry.overwrite("edge-09", "desired", app.cloud.registry.snapshot("edge-01")["desired"])
        assert self.refused(app, rebind(app, fresh), audit) == (409, "nothing_bound")

    def test_an_unknown_device(self, app, audit):
        other = replaced(app)
        reply = rebind(app, other, device_id="nobody")
        assert self.refused(app, reply, audit) == (404, "device_not_found")

    @pytest.mark.parametrize(
        ("changes", "pointer"),
        [
            ({"fingerprint": None}, "/fingerprint"),
            ({"fingerprint": "0F" * 32}, "/fingerprint"),
            ({"fingerprint": "0f" * 31}, "/fingerprint"),
            ({"fingerprint": 7}, "/fingerprint"),
            ({"device_id": "a/b/c"}, "/device_id"),
            ({"device_id": None}, "/device_id"),
        ],
    )
    def test_a_request_that_is_none(self, app, changes, pointer):
        reply = rebind(app, replaced(app), **changes)
        assert (reply.status, reply.document["code"]) == (400, "invalid_request")
        assert [each["pointer"] for each in reply.document["errors"]] == [pointer]

    def test_a_hub_that_is_away(self, app, audit):
        other = replaced(app)
        app.cloud.registry.faults["patch"] = [TransportError("the hub is away", code="hub_unavailable")]
        reply = rebind(app, other)
        assert (reply.status, reply.document["code"]) == (503, "unavailable")
        assert [each["outcome"] for each in audit()[-2:]] == ["allowed", "failed"]


class TestAudit:
    def test_who_said_it_is_recorded_with_both_keys(self, app, audit):
        bound = app.cloud.release().fingerprint.hex()
        other = replaced(app)
        rebind(app, other)
        record = audit()[-1]
        assert (record["event"], record["outcome"], record["device_id"], record["caller"]) == (
            "rebind",
            "allowed",
            "edge-01",
            "function-key",
        )
        assert record["detail"] == f"to {other.public_key.fingerprint.hex()}, bound is {bound}"

    def test_without_the_record_nothing_is_said(self, app):
        other = replaced(app)
        before = app.cloud.registry.snapshot("edge-01")
        app.cloud.segments.is_away = True
        reply = rebind(app, other)
        assert (reply.status, reply.document["code"]) == (503, "audit_unavailable")
        assert app.cloud.registry.snapshot("edge-01") == before
        assert app.queues["distribute-pages"] == []


class TestConflicts:
    def test_a_twin_that_changed_in_between_is_looked_at_again(self, app, audit):
        other = replaced(app)
        app.cloud.registry.faults["patch"] = [Conflict("changed", code="twin_conflict")] * 3
        assert rebind(app, other).status == 200
        assert app.cloud.tag()["rebind"] == other.public_key.fingerprint.hex()
        assert [each["event"] for each in audit()].count("rebind") == 1

    def test_a_twin_that_never_rests_is_told(self, app, audit):
        other = replaced(app)
        app.cloud.registry.faults["patch"] = [Conflict("changed", code="twin_conflict")] * 4
        reply = rebind(app, other)
        assert (reply.status, reply.document["code"]) == (409, "twin_conflict")
        assert (audit()[-1]["outcome"], audit()[-1]["reason"]) == ("failed", "twin_conflict")


def test_what_is_shown_of_a_device_tells_both_keys(app):
    bound = app.cloud.release().fingerprint.hex()
    other = replaced(app)
    told = app.request("Device", method="GET", route={"device_id": "edge-01"}).document
    assert (told["released"]["fingerprint"], told["reported_key"]) == (
        bound,
        other.public_key.fingerprint.hex(),
    )
    for unreadable in (None, "AAAA"):
        app.cloud.registry.report("edge-01", {"device_public_key": unreadable})
        told = app.request("Device", method="GET", route={"device_id": "edge-01"}).document
        assert told["reported_key"] is None


def test_it_takes_the_master_key(app):
    [level] = [
        binding.auth_level.name
        for binding in app.functions["RebindDevice"].get_bindings()
        if binding.get_binding_name() == "httpTrigger"
    ]
    assert level == "ADMIN"

"""Health and Ready: what is asked, and what is told of what is not ready."""

from __future__ import annotations

import datetime as dt
import threading

import pytest
from simulators.cloud import APP

from functions.token_bucket import BusyError
from shared.errors import KeyUnavailable, TransportError

PARTS = (
    "key_encryption_key",
    "release_key",
    "class_keys",
    "hub",
    "policy",
    "policy_source",
    "audit",
)


def ready(app):
    return app.request("Ready", method="GET")


def breaking(error):
    def fail(*_arguments, **_options):
        raise error

    return fail


def test_all_parts_are_ready(app):
    reply = ready(app)
    assert reply.status == 200
    assert reply.document == {"status": "ready", "parts": dict.fromkeys(PARTS, "ready")}


OPERATIONS = {
    "key_encryption_key": ("kek", "current"),
    "release_key": ("signer", "key_id"),
    "class_keys": ("store", "state"),
    "hub": ("registry", "read"),
}


@pytest.mark.parametrize("part", OPERATIONS)
@pytest.mark.parametrize(
    "error",
    [
        TransportError("10.0.0.7 refused: token eyJ0", code="vault_unavailable"),
        KeyUnavailable("the vault refused with 403", code="vault_forbidden"),
        ZeroDivisionError("inside"),
    ],
)
def test_a_part_that_is_not_ready_is_named_and_nothing_else_is_told(app, monkeypatch, caplog, part, error):
    port, operation = OPERATIONS[part]
    monkeypatch.setattr(getattr(app.cloud, port), operation, breaking(error))
    reply = ready(app)
    assert (reply.status, reply.document["code"]) == (503, "not_ready")
    assert reply.document["parts"] == dict.fromkeys(PARTS, "ready") | {part: "not_ready"}
    assert reply.document["detail"] == f"not ready: {part}"
    assert str(error).encode() not in reply.body
    (record,) = [record for record in caplog.records if record.message == "part_not_ready"]
    assert (record.part, record.correlation_id) == (part, reply.document["correlation_id"])


@pytest.mark.parametrize("part", OPERATIONS)
def test_a_part_that_our_own_rate_leaves_no_room_to_ask_is_not_amiss(app, monkeypatch, part):
    port, operation = OPERATIONS[part]
    monkeypatch.setattr(getattr(app.cloud, port), operation, breaking(BusyError("too late")))
    assert ready(app).status == 200


def test_a_policy_that_has_ended_is_not_in_force(make_app):
    app = make_app(not_after="2030-05-18T00:00:00Z")
    assert ready(app).status == 200
    app.cloud.at += dt.timedelta(days=1)
    assert ready(app).document["parts"]["policy"] == "not_ready"


def test_a_broken_policy_is_told_while_the_last_good_one_is_in_force(app):
    assert ready(app).status == 200
    app.policy_file.write_text("{")
    app.cloud.wait(minutes=1)
    parts = ready(app).document["parts"]
    assert (parts["policy"], parts["policy_source"]) == ("ready", "not_ready")
    app.cloud.wait(days=1)
    parts = ready(app).document["parts"]
    assert (parts["policy"], parts["policy_source"]) == ("not_ready", "not_ready")


def test_an_audit_chain_that_cannot_be_reached_or_does_not_hold_is_told(app):
    app.request("ProvisionKey", {"key_name": APP})
    (segment,) = app.cloud.segments.names()
    app.cloud.segments.is_away = True
    assert ready(app).document["parts"]["audit"] == "not_ready"
    app.cloud.segments.is_away = False
    assert ready(app).status == 200
    app.cloud.segments.segments[segment][10:11] = b"?"
    app.cloud.segments.is_away = True
    app.request("ProvisionKey", {"key_name": "other"})  # fails, and the end is looked for again
    app.cloud.segments.is_away = False
    assert ready(app).document["parts"]["audit"] == "not_ready"


def test_a_check_that_hangs_is_not_waited_for_and_not_begun_twice(app, monkeypatch):
    release, begun = threading.Event(), []

    def hang(_device):
        begun.append(threading.get_ident())
        release.wait(60)

    monkeypatch.setattr(app.cloud.registry, "read", hang)
    monkeypatch.setattr("functions.health.CHECK_SECONDS", 0.2)
    try:
        for _ in range(3):
            assert ready(app).document["parts"]["hub"] == "not_ready"
        assert len(begun) == 1
    finally:
        release.set()


def test_health_asks_nobody(app, monkeypatch):
    for port in ("kek", "signer", "store", "registry"):
        monkeypatch.setattr(app.cloud, port, None)
    assert app.request("Health", method="GET").document == {"status": "ok", "audience": "fleet-a"}


def test_readiness_makes_nothing(app):
    ready(app)
    assert (app.cloud.store.envelopes, app.cloud.registry.writes) == ({}, [])
    assert app.cloud.segments.segments == {}
    assert app.request("Key", method="GET", route={"key_name": APP}).status == 404

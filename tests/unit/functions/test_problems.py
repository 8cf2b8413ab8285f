"""The catalogue of problems: complete, without one that cannot be answered, and as the guide lists it."""

from __future__ import annotations

import base64
import errno
import json
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from simulators.cloud import APP
from simulators.described import DescribedApi
from simulators.fleet import DAY, Authority, Device, spki_of

from functions.problems import FIELD_FAULTS, PROBLEMS
from shared.errors import Conflict, EdbError, FormatError, KeyUnavailable, NotFound, TransportError
from shared.rollout import WHOLE, Rollout

GUIDE = (Path(__file__).parents[3] / "docs" / "guides" / "http-api.md").read_text()
ELLIPTIC = base64.b64encode(spki_of(ec.generate_private_key(ec.SECP256R1()))).decode()
NAMED = {"key_name": APP}


def failing(error):
    """Return what provokes an error of the vault's store in RotateKey."""

    def provoke(app, monkeypatch):
        def fail(*_arguments, **_options):
            raise error

        monkeypatch.setattr(app.cloud.store, "state", fail)
        return app.request("RotateKey", NAMED)

    return provoke


def posted(name, body, **options):
    return lambda app, _: app.request(name, body, **options)


def after(name, body, provoke):
    """Return what provokes a problem that needs another request before."""

    def both(app, monkeypatch):
        assert app.request(name, body).status < 300
        return provoke(app, monkeypatch)

    return both


def denied_by(change):
    """Return what provokes WrapKey's refusal of a version, under a policy that allows it to anybody."""

    def provoke(app, _):
        app.request("ProvisionKey", NAMED)
        change(app.cloud.store, app.cloud.at)
        return app.request("WrapKey", {**NAMED, "client_public_key": ELLIPTIC, "key_version": 1})

    return provoke


def aborted(store, _):
    """Let version 1 be what no operator can make of it: one that was on its way and was given up."""
    store._rollouts[APP, 1] = Rollout(stages=(WHOLE,)).aborted()


def staged(provoke):
    """Return what provokes a problem of a class key whose version 2 is on its way."""
    on_its_way = after("RotateKey", {**NAMED, "rollout": {"stages": [100, WHOLE]}}, provoke)
    return after("ProvisionKey", NAMED, on_its_way)


ELSEWHERE = {"version": 2, "stage": 1, "action": "advance"}


def reused(app, _):
    headers = {"Idempotency-Key": "k"}
    app.request("ProvisionKey", NAMED, headers=headers)
    return app.request("ProvisionKey", {**NAMED, "strength": 128}, headers=headers)


def not_ready(app, monkeypatch):
    monkeypatch.setattr(app.cloud.kek, "current", None)
    return app.request("Ready", method="GET")


def published(change, **headers):
    """Return what provokes a problem of publishing the policy that is in force, changed."""

    def provoke(app, _):
        data = change(app.policy_file.read_bytes())
        return app.request("PublishPolicy", data, method="PUT", headers=headers)

    return provoke


def read_only(app, monkeypatch):
    def refuse(*_arguments, **_options):
        raise OSError(errno.EROFS, "read-only")

    monkeypatch.setattr("functions.adapters.policy_file.FilePolicyStore._replace", refuse)
    return published(raised)(app, monkeypatch)


def raised(data):
    document = json.loads(data)
    return json.dumps({**document, "serial": document["serial"] + 1}).encode()


def no_policy(app, _):
    app.policy_file.write_text("{")
    return app.request("Policy", method="GET")


def no_audit(app, _):
    app.cloud.segments.is_away = True
    return app.request("ProvisionKey", NAMED)


def damaged(app, _):
    app.request("ProvisionKey", NAMED)
    app.cloud.segments.segments[app.cloud.segments.names()[0]] += b"?\n"
    return app.request("Audit", method="GET")


def rebound(change=lambda _: None, *, released=True):
    """Return what provokes a problem of binding a device that was changed to the key that it had."""

    def provoke(app, _):
        app.request("ProvisionKey", NAMED)
        device = app.cloud.enrol()
        if released:
            app.drain()
        change(app.cloud.registry)
        body = {"device_id": "edge-01", "fingerprint": device.public_key.fingerprint.hex()}
        return app.request("RebindDevice", body)

    return provoke


def twin_conflict(app, _):
    app.request("ProvisionKey", NAMED)
    app.cloud.enrol()
    app.drain()
    other = Device.make(app.cloud.authority)
    app.cloud.registry.report("edge-01", other.report())
    app.cloud.registry.faults["patch"] = [Conflict("changed", code="twin_conflict")] * 4
    body = {"device_id": "edge-01", "fingerprint": other.public_key.fingerprint.hex()}
    return app.request("RebindDevice", body)


PROVOKED = {
    "malformed": posted("RotateKey", b"["),
    "invalid_request": posted("RotateKey", {}),
    "name_invalid": posted("Key", None, method="GET", route={"key_name": "-"}),
    "wrapped_key_invalid": posted("ImportKey", {**NAMED, "wrapped_key": "AAAA"}),
    "unsupported_algorithm": posted(
        "WrapKey", {**NAMED, "client_public_key": ELLIPTIC, "algorithm": "RSA1_5"}
    ),
    "idempotency_key_invalid": posted("RotateKey", NAMED, headers={"Idempotency-Key": "a b"}),
    "token_invalid": posted("Keys", None, method="GET", params={"token": "-"}),
    "policy_denied": posted("WrapKey", {**NAMED, "client_public_key": ELLIPTIC}),
    "key_revoked": denied_by(lambda store, _: store.raise_floor(APP, 2)),
    "key_not_found": posted("RotateKey", NAMED),
    "device_not_found": posted("Device", None, method="GET", route={"device_id": "nobody"}),
    "method_not_allowed": posted("ProvisionKey", None, method="GET"),
    "key_exists": after("ProvisionKey", NAMED, posted("ProvisionKey", NAMED)),
    "name_taken": failing(Conflict("the secret holds something else", code="name_taken")),
    "key_deleted": failing(Conflict("it can still be recovered", code="key_deleted")),
    "key_aborted": denied_by(aborted),
    "key_disabled": denied_by(lambda store, _: store.disabled.add((APP, 1))),
    "key_expired": denied_by(lambda store, at: store._expiry.update({(APP, 1): at})),
    "key_not_yet_valid": denied_by(lambda store, at: store.not_before.update({(APP, 1): at + DAY})),
    "key_in_use": after("ProvisionKey", NAMED, posted("DeleteKey", NAMED)),
    "version_exists": failing(Conflict("somebody else was first", code="version_exists")),
    "rollout_unfinished": staged(posted("RotateKey", NAMED)),
    "rollout_changed": staged(posted("ChangeRollout", {**NAMED, **ELSEWHERE})),
    "conflict": failing(Conflict("too fast")),
    "body_too_large": posted("RotateKey", b" " * 65537),
    "key_not_reported": rebound(lambda hub: hub.report("edge-01", {"device_public_key": None})),
    "fingerprint_mismatch": rebound(lambda hub: hub.report("edge-01", Device.make(Authority()).report())),
    "nothing_bound": rebound(released=False),
    "twin_conflict": twin_conflict,
    "policy_serial": published(lambda data: data),
    "policy_read_only": read_only,
    "policy_changed": published(raised, **{"If-Match": '"0x0"'}),
    "audit_damaged": damaged,
    "policy_unavailable": no_policy,
    "audit_unavailable": no_audit,
    "idempotency_key_reused": reused,
    "internal": failing(ZeroDivisionError()),
    "unavailable": failing(TransportError("10.0.0.7 refused", code="vault_unavailable")),
    "not_ready": not_ready,
}
OF_VERSIONS = {"key_revoked", "key_aborted", "key_disabled", "key_expired", "key_not_yet_valid"}
ANYBODY = {
    "id": "anybody",
    "keys": ["*"],
    "operations": ["wrap"],
    "algorithms": ["HPKE-P256"],
    "release": {"allOf": [{"claim": "request.key_kind", "exists": True}]},
}


@pytest.mark.parametrize("code", PROBLEMS)
def test_every_problem_of_the_catalogue_can_be_answered(make_app, monkeypatch, code):
    changes = {"rules": [ANYBODY]} if code in OF_VERSIONS else {}
    app = make_app(**changes)
    reply = PROVOKED[code](app, monkeypatch)
    assert (reply.document["code"], reply.status) == (code, PROBLEMS[code].status)
    assert reply.document["type"] == f"urn:cpk:problem:{code}"
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert reply.headers["x-correlation-id"] == reply.document["correlation_id"]


@pytest.mark.parametrize(
    "error",
    [
        FormatError("found the secret inside", code="of_no_catalogue"),
        NotFound("found the secret inside", code="not_found"),
        KeyUnavailable("found the secret inside", code="vault_forbidden"),
        # A code of the catalogue does not make an error one about the request.
        EdbError("found the secret inside", code="key_exists"),
    ],
)
def test_what_is_in_no_catalogue_leaves_as_internal(app, monkeypatch, error):
    reply = failing(error)(app, monkeypatch)
    assert (reply.status, reply.document["code"], reply.document["detail"]) == (
        500,
        "internal",
        "internal error",
    )


def test_every_contract_names_problems_of_the_catalogue_and_every_one_is_named(app):
    named = set()
    for operation, _ in app.described.operations.values():
        for response in operation["responses"].values():
            schema = response.get("content", {}).get("application/problem+json", {}).get("schema")
            if schema is not None:
                named |= set(schema["allOf"][1]["properties"]["code"]["enum"])
    assert named | {"method_not_allowed"} == set(PROBLEMS)


def table(heading):
    section = GUIDE.partition(f"\n{heading}\n")[2].partition("\n#")[0]
    return re.findall(r"^\| `([a-z_]+)` \|(?: (\d{3}) \|)? (.+) \|$", section, re.MULTILINE)


def test_the_guide_lists_all_of_them_with_their_statuses_and_meanings():
    assert table("## Problems") == [
        (code, str(kind.status.value), kind.meaning) for code, kind in PROBLEMS.items()
    ]
    assert table("### Faults of fields") == [(code, "", meaning) for code, meaning in FIELD_FAULTS.items()]


@pytest.mark.parametrize(
    ("code", "body"),
    [
        ("missing", {}),
        ("malformed", {**NAMED, "strength": 1}),
        ("name_invalid", {"key_name": "-"}),
        ("unsupported_algorithm", {**NAMED, "algorithm": "des"}),
        ("name_conflict", {"key_name": "other"}),
    ],
)
def test_every_fault_of_a_field_can_be_told(app, code, body):
    name, route = ("ProvisionKeyNamed", NAMED) if code == "name_conflict" else ("ProvisionKey", None)
    reply = app.request(name, body, route=route)
    assert [fault["code"] for fault in reply.document["errors"]] == [code]
    assert code in FIELD_FAULTS


class TestTheCheckItself:
    """Every answer that a test sees is held to the document; this shows that the check can fail."""

    @pytest.fixture
    def described(self, app):
        return DescribedApi(app.request("OpenApi", method="GET").document)

    def test_an_answer_as_described_passes(self, app, described):
        described.check("Health", "GET", app.request("Health", method="GET"))

    @pytest.mark.parametrize(
        "change",
        [
            lambda reply: setattr(reply, "status", 418),
            lambda reply: reply.document.pop("audience"),
            lambda reply: reply.document.update(status="well"),
            lambda reply: reply.headers.update({"Content-Type": "text/html"}),
            lambda reply: reply.headers.pop("x-correlation-id"),
        ],
    )
    def test_an_answer_that_is_not_described_fails(self, app, described, change):
        reply = app.request("Health", method="GET")
        change(reply)
        with pytest.raises(Exception, match=r"."):
            described.check("Health", "GET", reply)

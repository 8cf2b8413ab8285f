"""What a policy allows, and why it denies."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from shared.certificate_paths import TrustStore, validate_path
from shared.certificates import leaf_public_key
from shared.policy.claims import certificate_claims, hub_claims
from shared.policy.document import Operation, load_policy
from shared.policy.evaluate import Allowed, Denied, evaluate
from shared.types import KeyName, WrapAlgorithm

NOW = datetime(2026, 6, 1, tzinfo=UTC)
APP = KeyName("my_confidential_app")
CLAIMS = {
    "hub": {
        "device_id": "edge-01",
        "status": "enabled",
        "tags": {"class": "gateway", "ring": 2, "beta": False},
    },
    "x509": {"key_matches": True, "not_after": 1800000000},
}


def rule(rule_id="r", **changes):
    return {
        "id": rule_id,
        "keys": ["*"],
        "operations": ["distribute"],
        "algorithms": ["RSA-OAEP-256"],
        "release": {"allOf": [{"claim": "hub.status", "equals": "enabled"}]},
        **changes,
    }


def policy(*rules, **changes):
    document = {"version": "1.0.0", "id": "fleet-a", "serial": 1, "rules": list(rules), **changes}
    return load_policy(json.dumps(document).encode(), where="policy")


def ask(loaded, *, claims=CLAIMS, operation=Operation.DISTRIBUTE, key_name=APP, v1=False, at=NOW):
    return evaluate(loaded, operation=operation, key_name=key_name, claims=claims, v1=v1, at=at)


def allows(release, claims=CLAIMS):
    return isinstance(ask(policy(rule(release=release)), claims=claims), Allowed)


def condition(claim, operator, value):
    return {"allOf": [{"claim": claim, operator: value}]}


def test_an_allowed_operation_says_by_which_rule_and_how():
    algorithms = ["HPKE-P256", "RSA-OAEP-256"]
    answer = ask(policy(rule("gateways", algorithms=algorithms, lease_seconds=60, v1=True)))
    assert answer == Allowed(
        rule_id="gateways",
        algorithms=(WrapAlgorithm.HPKE_P256, WrapAlgorithm.RSA_OAEP_256),
        lease_seconds=60,
        v1=True,
    )


def test_the_first_rule_that_matches_decides():
    failing = {"allOf": [{"claim": "hub.status", "equals": "disabled"}]}
    loaded = policy(
        rule("other-key", keys=["other"]),
        rule("other-operation", operations=["wrap"]),
        rule("failing", release=failing),
        rule("first"),
        rule("second"),
    )
    assert ask(loaded).rule_id == "first"


def test_key_names_are_exact():
    loaded = policy(rule(keys=["my_confidential_app"]))
    assert isinstance(ask(loaded), Allowed)
    for name in ("my_confidential_ap", "My_confidential_app", "my_confidential_app2"):
        assert ask(loaded, key_name=KeyName(name)).reason == "no_rule"


@pytest.mark.parametrize(
    "loaded", [policy(), policy(rule(operations=["wrap"])), policy(rule(keys=["other"]))]
)
def test_without_a_rule_for_it_everything_is_denied(loaded):
    answer = ask(loaded)
    assert answer == Denied(
        reason="no_rule", detail="no rule of policy fleet-a names distribute of key my_confidential_app"
    )


@pytest.mark.parametrize(
    ("claim", "operator", "value", "holds"),
    [
        ("hub.tags.class", "equals", "gateway", True),
        ("hub.tags.class", "equals", "Gateway", False),
        ("hub.tags.class", "notEquals", "sensor", True),
        ("hub.tags.class", "notEquals", "gateway", False),
        ("hub.tags.class", "notEquals", 1, False),
        ("hub.tags.ring", "equals", 2, True),
        ("hub.tags.ring", "equals", 2.0, False),
        ("hub.tags.ring", "equals", "2", False),
        ("hub.tags.ring", "less", 3, True),
        ("hub.tags.ring", "less", 2, False),
        ("hub.tags.ring", "less", 2.5, True),
        ("hub.tags.ring", "lessOrEquals", 2, True),
        ("hub.tags.ring", "lessOrEquals", 1, False),
        ("hub.tags.ring", "greater", 1, True),
        ("hub.tags.ring", "greater", 2, False),
        ("hub.tags.ring", "greaterOrEquals", 2, True),
        ("hub.tags.ring", "greaterOrEquals", 3, False),
        ("hub.tags.class", "less", 3, False),
        ("hub.tags.class", "greater", 0, False),
        ("hub.tags.beta", "less", 1, False),
        ("hub.tags.beta", "equals", False, True),
        ("hub.tags.beta", "equals", 0, False),
        ("hub.tags.ring", "in", [1, 2], True),
        ("hub.tags.ring", "in", [1, 2.0, "2"], False),
        ("hub.tags.ring", "in", [], False),
        ("hub.tags.beta", "in", [0], False),
        ("hub.tags.class", "exists", True, True),
        ("hub.tags.class", "exists", False, False),
        ("hub.tags.none", "exists", True, False),
        ("hub.tags.none", "exists", False, True),
        ("hub.tags", "exists", True, True),
        ("hub.tags", "equals", "gateway", False),
        ("hub.tags.class.deeper", "exists", True, False),
        ("attestation.tee", "equals", "optee", False),
        ("attestation.tee", "notEquals", "optee", False),
        ("attestation.tee", "less", 1, False),
        ("attestation.tee", "greaterOrEquals", 1, False),
        ("attestation.tee", "in", ["optee"], False),
        ("x509.key_matches", "equals", True, True),
        ("x509.key_matches", "equals", 1, False),
        ("x509.key_matches", "notEquals", False, True),
    ],
)
def test_conditions_compare_values_of_one_type_and_deny_otherwise(claim, operator, value, holds):
    assert allows(condition(claim, operator, value)) is holds


@pytest.mark.parametrize("found", [None, [], ["gateway"], {}, {"gateway": 1}, b"gateway", float("nan")])
@pytest.mark.parametrize("operator", ["equals", "notEquals", "less", "greaterOrEquals", "in"])
def test_a_claim_that_is_no_scalar_satisfies_no_comparison(found, operator):
    value = {"in": ["gateway", 1], "less": 1, "greaterOrEquals": 1}.get(operator, "gateway")
    assert not allows(condition("hub.tags.class", operator, value), {"hub": {"tags": {"class": found}}})


def test_a_null_claim_neither_exists_nor_is_absent():
    claims = {"hub": {"tags": {"class": None}}}
    assert not allows(condition("hub.tags.class", "exists", value=True), claims)
    assert not allows(condition("hub.tags.class", "exists", value=False), claims)


YES = {"claim": "hub.status", "equals": "enabled"}
NO = {"claim": "hub.status", "equals": "disabled"}


@pytest.mark.parametrize(
    ("release", "holds"),
    [
        ({"allOf": []}, False),
        ({"anyOf": []}, False),
        ({"allOf": [YES, YES]}, True),
        ({"allOf": [YES, NO]}, False),
        ({"anyOf": [NO, YES]}, True),
        ({"anyOf": [NO, NO]}, False),
        ({"allOf": [YES, {"allOf": []}]}, False),
        ({"allOf": [YES, {"anyOf": []}]}, False),
        ({"anyOf": [{"allOf": []}, YES]}, True),
        ({"anyOf": [{"allOf": [YES, NO]}, {"allOf": [YES, {"anyOf": [NO, YES]}]}]}, True),
    ],
)
def test_combinators_nest_and_an_empty_one_never_holds(release, holds):
    assert allows(release) is holds


@pytest.mark.parametrize(
    ("release", "detail"),
    [
        (
            condition("hub.tags.class", "equals", "sensor"),
            'rule r: hub.tags.class equals "sensor", found "gateway"',
        ),
        (
            condition("x509.chain_root_sha256", "equals", "ab"),
            'rule r: x509.chain_root_sha256 equals "ab", found nothing',
        ),
        (condition("x509.key_matches", "equals", 1), "rule r: x509.key_matches equals 1, found true"),
        (condition("hub.tags.ring", "in", [1, "2"]), 'rule r: hub.tags.ring in [1, "2"], found 2'),
        (condition("hub.tags", "equals", "x"), 'rule r: hub.tags equals "x", found a dict'),
        ({"allOf": [YES, {"anyOf": [NO, NO]}]}, 'rule r: hub.status equals "disabled", found "enabled"'),
        ({"anyOf": []}, "rule r: an empty anyOf never holds"),
    ],
)
def test_a_denial_says_which_rule_which_claim_and_how(release, detail):
    assert ask(policy(rule(release=release))) == Denied(reason="claim_failed", detail=detail)


def test_the_rule_that_names_the_key_explains_the_denial():
    loaded = policy(
        rule("every", release=condition("hub.tags.ring", "equals", 1)),
        rule("named", keys=[APP], release=condition("hub.tags.ring", "equals", 3)),
    )
    assert ask(loaded).detail.startswith("rule named: ")


@pytest.mark.parametrize(
    "found",
    ["x" * 100_000, 10**5000, -(10**5000), "\ud800", "\n\x1b[31m"],
    ids=["long", "large", "small", "surrogate", "control"],
)
def test_a_detail_is_short_and_printable_whatever_the_claim(found):
    loaded = policy(rule(release=condition("hub.tags.class", "equals", "gateway")))
    detail = ask(loaded, claims={"hub": {"tags": {"class": found}}}).detail
    assert len(detail) < 200
    assert detail.isprintable()


def test_devices_that_cannot_verify_a_release_need_a_rule_that_says_so():
    assert ask(policy(rule("new")), v1=True) == Denied(
        reason="v1_not_allowed", detail="rule new: it is not for v1 devices"
    )
    assert ask(policy(rule("new"), rule("old", v1=True)), v1=True).rule_id == "old"
    assert ask(policy(rule("old", v1=True)), v1=False).rule_id == "old"


def test_a_policy_that_has_ended_denies_and_so_does_one_whose_end_cannot_be_judged():
    loaded = policy(rule(), not_after="2026-06-01T00:00:00Z")
    assert isinstance(ask(loaded, at=NOW - timedelta(seconds=1)), Allowed)
    for at in (NOW, NOW + timedelta(days=1), None):
        assert ask(loaded, at=at).reason == "policy_expired"
    assert isinstance(ask(policy(rule()), at=None), Allowed)


# --- claims --------------------------------------------------------------------------------------


def path_of(*uris):
    """Return a validated path of a self-made root that names `uris`."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "edge-01")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
    )
    if uris:
        names = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri) for uri in uris])
        builder = builder.add_extension(names, critical=False)
    certificate = builder.sign(key, hashes.SHA256())
    return validate_path((certificate,), TrustStore(roots=(certificate,)), at=NOW)


def test_a_validated_path_vouches_for_root_key_device_and_time():
    path = path_of()
    assert certificate_claims(path, spki=leaf_public_key(path.leaf), device_id="edge-01") == {
        "x509": {
            "chain_root_sha256": path.root_sha256,
            "key_matches": True,
            "device_id_matches": True,
            "not_after": int((NOW + timedelta(days=1)).timestamp()),
            "issuer": "CN=edge-01",
        }
    }


def test_another_key_or_device_does_not_match():
    claims = certificate_claims(path_of("urn:cpk:device:edge-02"), spki=b"another", device_id="edge-01")[
        "x509"
    ]
    assert claims["key_matches"] is False
    assert claims["device_id_matches"] is False


def test_a_build_machine_is_named_and_no_device_is_matched():
    claims = certificate_claims(path_of("urn:cpk:build:ci-01"), spki=b"", device_id=None)["x509"]
    assert claims["build_name"] == "ci-01"
    assert "device_id_matches" not in claims


def test_without_a_path_there_are_no_claims_so_that_conditions_on_them_deny():
    claims = {
        **hub_claims(device_id="edge-01", status="enabled", tags={"class": "gateway"}),
        **certificate_claims(None, spki=b"", device_id="edge-01"),
    }
    assert "x509" not in claims
    assert allows(condition("hub.tags.class", "equals", "gateway"), claims)
    assert not allows(condition("x509.key_matches", "equals", value=True), claims)
    assert not allows(condition("x509.key_matches", "notEquals", value=False), claims)

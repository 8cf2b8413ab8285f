"""What an explanation shows, condition by condition, and what is warned about in a policy."""

import json
from datetime import UTC, datetime

import pytest

from shared.policy.document import Operation, load_policy
from shared.policy.evaluate import Allowed
from shared.policy.explaining import explain
from shared.policy.linting import lint_policy
from shared.types import KeyName

NOW = datetime(2030, 5, 17, 12, 0, tzinfo=UTC)
BOUND = [
    {"claim": "x509.device_id_matches", "equals": True},
    {"claim": "x509.key_matches", "equals": True},
]


def equals(claim, value):
    return {"claim": claim, "equals": value}


def policy_of(*rules, **changes):
    document = {
        "version": "1.0.0",
        "id": "p",
        "serial": 1,
        "rules": [
            {
                "id": f"r{number}",
                "keys": ["app"],
                "operations": ["distribute"],
                "algorithms": ["RSA-OAEP-256"],
                **rule,
            }
            for number, rule in enumerate(rules)
        ],
        **changes,
    }
    return load_policy(json.dumps(document).encode(), where="policy")


def findings(*rules, **changes):
    return [(found.pointer, found.code) for found in lint_policy(policy_of(*rules, **changes), at=NOW)]


def test_an_explanation_shows_expected_and_found_for_every_condition_of_every_rule():
    policy = policy_of(
        {"keys": ["other"], "release": {"allOf": [equals("hub.a", 1)]}},
        {"release": {"allOf": [equals("hub.a", 1), {"anyOf": [equals("hub.b", "x"), equals("hub.c", 2)]}]}},
    )

    explained = explain(
        policy,
        operation=Operation.DISTRIBUTE,
        key_name=KeyName("app"),
        claims={"hub": {"a": 1, "c": True}},
        at=NOW,
    )

    other, asked = explained.rules
    assert other.passed_over == "it does not name app"
    assert not other.matches
    assert other.release.holds
    assert asked.passed_over is None
    first, nested = asked.release.terms
    assert (first.expected, first.found, first.holds) == ("equals 1", "1", True)
    assert [(term.claim, term.found, term.holds) for term in nested.terms] == [
        ("hub.b", "nothing", False),
        ("hub.c", "true", False),
    ]
    assert not asked.release.holds
    assert explained.verdict.reason == "claim_failed"


def test_a_matching_rule_of_an_ended_policy_decides_nothing():
    policy = policy_of({"release": {"allOf": [equals("hub.a", 1)]}}, not_after="2030-05-17T12:00:00Z")

    explained = explain(
        policy, operation=Operation.DISTRIBUTE, key_name=KeyName("app"), claims={"hub": {"a": 1}}, at=NOW
    )

    assert explained.ended
    assert explained.rules[0].matches
    assert explained.deciding is None
    assert not isinstance(explained.verdict, Allowed)


def test_a_bound_rule_for_named_keys_has_no_findings():
    assert findings({"release": {"allOf": [equals("hub.tags.class", "gateway"), *BOUND]}}) == []


def test_a_policy_that_denies_everything_is_told():
    assert findings(not_after="2030-05-17T12:00:00Z") == [
        ("/not_after", "policy_ended"),
        ("/rules", "no_rules"),
    ]


@pytest.mark.parametrize(
    "terms",
    [
        [{"anyOf": []}],
        [{"claim": "hub.a", "in": []}],
        [equals("hub.a", 1), equals("hub.a", True)],
        [equals("hub.a", 1), {"claim": "hub.a", "exists": False}],
        [{"claim": "hub.a", "greater": 2}, {"claim": "hub.a", "less": 2}],
        [{"claim": "hub.a", "greater": 2}, {"allOf": [{"claim": "hub.a", "lessOrEquals": 2}]}],
        [{"claim": "hub.a", "notEquals": "x"}, {"claim": "hub.a", "less": 2}],
        [equals("caller.entra_name", "x")],
    ],
)
def test_conditions_that_cannot_hold_are_found(terms):
    assert ("/rules/0/release", "never_matches") in findings({"release": {"allOf": [*terms, *BOUND]}})


@pytest.mark.parametrize(
    "terms",
    [
        [{"claim": "caller.entra_name", "exists": False}],
        [{"claim": "hub.a", "in": [1, 2]}, {"claim": "hub.a", "notEquals": 1}],
        [{"claim": "hub.a", "greaterOrEquals": 2}, {"claim": "hub.a", "lessOrEquals": 2.0}],
        [{"anyOf": [equals("hub.a", 1), equals("hub.a", 2)]}],
    ],
)
def test_conditions_that_can_hold_are_left_alone(terms):
    assert findings({"release": {"allOf": [*terms, *BOUND]}}) == []


def test_a_rule_behind_one_that_asks_for_less_is_shadowed():
    wide = {"release": {"allOf": BOUND}}
    narrow = {"release": {"allOf": [equals("hub.a", 1), *BOUND]}}

    assert findings(wide, narrow) == [("/rules/1", "shadowed")]
    assert findings(narrow, wide) == []
    assert findings({**wide, "keys": ["other"]}, narrow) == []
    assert findings(wide, {**narrow, "v1": True}) == []


def test_one_is_not_true_where_rules_are_compared():
    one, true = ({"release": {"allOf": [equals("hub.a", value), *BOUND]}} for value in (1, True))

    assert findings(one, true) == []


def test_generous_rules_are_told():
    rule = {
        "keys": ["*"],
        "algorithms": ["RSA-OAEP-256", "RSA1_5"],
        "release": {"anyOf": [{"allOf": BOUND}, equals("hub.a", 1)]},
    }

    assert findings(rule) == [
        ("/rules/0/keys", "every_key"),
        ("/rules/0/algorithms/1", "rsa1_5"),
        ("/rules/0/release", "no_certificate"),
    ]


def test_a_certificate_that_is_not_bound_to_device_and_key_is_told():
    rooted = equals("x509.chain_root_sha256", "00")

    assert findings({"release": {"allOf": [rooted]}}) == [("/rules/0/release", "certificate_unbound")] * 2
    assert findings({"release": {"allOf": [rooted]}, "operations": ["wrap"]}) == []
    absent = {"claim": "x509.issuer", "exists": False}
    assert findings({"release": {"allOf": [absent]}}) == [("/rules/0/release", "no_certificate")]

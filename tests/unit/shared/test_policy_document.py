"""Loading a release policy: whole or not at all, and the pointer says where."""

from __future__ import annotations

import copy
import hashlib
import json
from datetime import UTC, datetime

import pytest

from shared.errors import FormatError
from shared.policy.document import (
    LEASE_SECONDS,
    MAX_NESTING,
    MAX_POLICY_BYTES,
    Combinator,
    Condition,
    Operation,
    Operator,
    Quantifier,
    load_policy,
)
from shared.types import WrapAlgorithm

RULE = {
    "id": "gateways",
    "keys": ["my_confidential_app"],
    "operations": ["distribute"],
    "algorithms": ["RSA-OAEP-256", "HPKE-P256"],
    "lease_seconds": 2592000,
    "release": {
        "allOf": [
            {"claim": "hub.tags.class", "equals": "gateway"},
            {"anyOf": [{"claim": "x509.key_matches", "equals": True}]},
        ]
    },
}
POLICY = {"version": "1.0.0", "id": "fleet-a", "serial": 12, "rules": [RULE]}


def load(document):
    return load_policy(json.dumps(document).encode(), where="policy.json")


def changed(pointer, value):
    """Return the policy with one value put elsewhere than it was; None takes it away."""
    document = copy.deepcopy(POLICY)
    *steps, last = [int(step) if step.isdigit() else step for step in pointer.strip("/").split("/")]
    place = document
    for step in steps:
        place = place[step]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return document


def test_a_policy_loads_into_what_it_says():
    data = json.dumps(POLICY).encode()
    policy = load_policy(data, where="policy.json")
    assert (policy.id, policy.serial, policy.not_after) == ("fleet-a", 12, None)
    assert policy.digest == hashlib.sha256(data).digest()
    (rule,) = policy.rules
    assert (rule.id, rule.keys, rule.v1) == ("gateways", {"my_confidential_app"}, False)
    assert rule.operations == {Operation.DISTRIBUTE}
    assert rule.algorithms == (WrapAlgorithm.RSA_OAEP_256, WrapAlgorithm.HPKE_P256)
    assert rule.lease_seconds == 2592000
    assert rule.release == Combinator(
        quantifier=Quantifier.ALL_OF,
        terms=(
            Condition(claim="hub.tags.class", operator=Operator.EQUALS, value="gateway"),
            Combinator(
                quantifier=Quantifier.ANY_OF,
                terms=(Condition(claim="x509.key_matches", operator=Operator.EQUALS, value=True),),
            ),
        ),
    )


def test_what_is_optional_has_safe_defaults():
    (rule,) = load(changed("/rules/0/lease_seconds", None)).rules
    assert rule.lease_seconds == LEASE_SECONDS
    assert rule.v1 is False
    assert load({**POLICY, "rules": []}).rules == ()


def test_a_star_alone_means_every_key():
    assert load(changed("/rules/0/keys", ["*"])).rules[0].keys is None


def test_an_end_and_a_description_may_be_stated():
    policy = load({**POLICY, "not_after": "2030-01-31T12:00:00Z", "description": "the first fleet"})
    assert policy.not_after == datetime(2030, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("operator", "value"),
    [
        ("equals", "text"),
        ("equals", 1),
        ("equals", 1.5),
        ("equals", False),
        ("notEquals", "text"),
        ("less", 1),
        ("lessOrEquals", 1.5),
        ("greater", -1),
        ("greaterOrEquals", 0),
        ("exists", True),
        ("exists", False),
        ("in", ["a", 1, True]),
        ("in", []),
    ],
)
def test_every_operator_of_the_grammar_is_read(operator, value):
    policy = load(changed("/rules/0/release/allOf/0", {"claim": "hub.status", operator: value}))
    condition = policy.rules[0].release.terms[0]
    assert condition.operator is Operator(operator)
    assert condition.value == (tuple(value) if isinstance(value, list) else value)


@pytest.mark.parametrize(
    ("pointer", "value", "fault"),
    [
        ("/version", "2.0.0", "/version"),
        ("/version", 1, "/version"),
        ("/version", None, "the root: the field version is missing"),
        ("/id", "", "/id"),
        ("/id", 7, "/id"),
        ("/serial", -1, "/serial"),
        ("/serial", True, "/serial"),
        ("/serial", 1.0, "/serial"),
        ("/serial", "12", "/serial"),
        ("/rules", {}, "/rules"),
        ("/rules", [RULE, RULE], "/rules/1/id"),
        ("/rules", ["gateways"], "/rules/0"),
        ("/rules", [{}] * 1025, "/rules: expected 0 to 1024"),
        ("/Rules", [], "/Rules: unknown field"),
        ("/not~after/", 1, "/not~0after"),
        ("/not_after", "2030-01-31", "/not_after"),
        ("/not_after", "2030-01-31T12:00:00+01:00", "/not_after"),
        ("/not_after", "2030-02-31T12:00:00Z", "/not_after"),
        ("/not_after", 1893456000, "/not_after"),
        ("/description", 1, "/description"),
        ("/rules/0/id", "a b", "/rules/0/id"),
        ("/rules/0/id", None, "/rules/0: the field id is missing"),
        ("/rules/0/keys", [], "/rules/0/keys"),
        ("/rules/0/keys", "*", "/rules/0/keys"),
        ("/rules/0/keys", ["*", "a"], "/rules/0/keys/0"),
        ("/rules/0/keys", ["a*"], "/rules/0/keys/0"),
        ("/rules/0/keys", ["a", "a"], "/rules/0/keys/1: stands here for the second time"),
        ("/rules/0/operations", [], "/rules/0/operations"),
        ("/rules/0/operations", ["provision"], "/rules/0/operations/0: expected one of distribute, wrap"),
        ("/rules/0/operations", ["wrap", "wrap"], "/rules/0/operations/1"),
        ("/rules/0/operations", [["wrap"]], "/rules/0/operations/0"),
        ("/rules/0/algorithms", [], "/rules/0/algorithms"),
        ("/rules/0/algorithms", ["RSA-OAEP"], "/rules/0/algorithms/0"),
        ("/rules/0/algorithms", None, "/rules/0: the field algorithms is missing"),
        ("/rules/0/lease_seconds", 59, "/rules/0/lease_seconds"),
        ("/rules/0/lease_seconds", 366 * 86400 + 1, "/rules/0/lease_seconds"),
        ("/rules/0/lease_seconds", True, "/rules/0/lease_seconds"),
        ("/rules/0/v1", 1, "/rules/0/v1"),
        ("/rules/0/v1", "true", "/rules/0/v1"),
        ("/rules/0/release", None, "/rules/0: the field release is missing"),
        ("/rules/0/release", {}, "/rules/0/release"),
        ("/rules/0/release", [], "/rules/0/release"),
        ("/rules/0/release", {"claim": "hub.status", "equals": "enabled"}, "/rules/0/release"),
        ("/rules/0/release", {"noneOf": []}, "/rules/0/release"),
        ("/rules/0/release", {"allOf": [], "anyOf": []}, "/rules/0/release"),
        ("/rules/0/release", {"allOf": {}}, "/rules/0/release/allOf"),
        ("/rules/0/release/allOf/0", "yes", "/rules/0/release/allOf/0"),
        (
            "/rules/0/release/allOf/0",
            {"claim": "hub.status"},
            "allOf/0: expected exactly one operator, found 0",
        ),
        (
            "/rules/0/release/allOf/0",
            {"claim": "hub.status", "equals": "a", "in": []},
            "allOf/0: expected exactly one operator, found 2",
        ),
        ("/rules/0/release/allOf/0", {"claim": "hub.status", "like": "a"}, "allOf/0/like: unknown field"),
        ("/rules/0/release/allOf/0", {"claim": "hub.status", "Equals": "a"}, "allOf/0/Equals: unknown field"),
        ("/rules/0/release/allOf/0", {"claim": "hub", "exists": True}, "allOf/0/claim"),
        ("/rules/0/release/allOf/0", {"claim": "twin.class", "exists": True}, "allOf/0/claim"),
        ("/rules/0/release/allOf/0", {"claim": "hub..class", "exists": True}, "allOf/0/claim"),
        ("/rules/0/release/allOf/0", {"claim": "hub.class\n", "exists": True}, "allOf/0/claim"),
        ("/rules/0/release/allOf/0", {"claim": ["hub", "class"], "exists": True}, "allOf/0/claim"),
        ("/rules/0/release/allOf/0", {"claim": "hub.x", "equals": {}}, "allOf/0/equals"),
        ("/rules/0/release/allOf/0", {"claim": "hub.x", "equals": []}, "allOf/0/equals"),
        ("/rules/0/release/allOf/0", {"claim": "hub.x", "less": "5"}, "allOf/0/less"),
        ("/rules/0/release/allOf/0", {"claim": "hub.x", "greater": True}, "allOf/0/greater"),
        ("/rules/0/release/allOf/0", {"claim": "hub.x", "exists": 1}, "allOf/0/exists"),
        ("/rules/0/release/allOf/0", {"claim": "hub.x", "in": "abc"}, "allOf/0/in"),
        ("/rules/0/release/allOf/0", {"claim": "hub.x", "in": [["a"]]}, "allOf/0/in/0"),
        ("/rules/0/release/allOf/1/anyOf/0/equals", {}, "allOf/1/anyOf/0/equals"),
    ],
)
def test_a_fault_rejects_the_document_and_is_pointed_at(pointer, value, fault):
    with pytest.raises(FormatError) as caught:
        load(changed(pointer, value))
    assert str(caught.value).startswith("policy.json: at ")
    assert fault in str(caught.value)


def test_a_condition_takes_no_null():
    data = json.dumps(POLICY).replace('"gateway"', "null").encode()
    with pytest.raises(FormatError, match=r"at /rules/0/release/allOf/0/equals: "):
        load_policy(data, where="policy.json")


@pytest.mark.parametrize("value", ["1e999", "-1e999"])
def test_a_number_out_of_range_is_no_json(value):
    data = json.dumps(POLICY).replace('"gateway"', value).encode()
    with pytest.raises(FormatError, match=r"policy.json: holds a number that is out of range"):
        load_policy(data, where="policy.json")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b"\xef\xbb\xbf{}",
        json.dumps(POLICY).encode() + b"x",
        json.dumps(POLICY).encode()[:-1],
        json.dumps(POLICY).replace('"serial": 12', '"serial": 12, "serial": 13').encode(),
        json.dumps(POLICY).encode() + b" " * MAX_POLICY_BYTES,
    ],
)
def test_what_is_no_json_object_of_bounded_size_is_refused(data):
    with pytest.raises(FormatError, match=r"^policy\.json: "):
        load_policy(data, where="policy.json")


def test_nesting_is_bounded():
    def nested(depth):
        return {"allOf": [nested(depth - 1)]} if depth > 1 else {"anyOf": []}

    assert load(changed("/rules/0/release", nested(MAX_NESTING)))
    with pytest.raises(FormatError, match="nested deeper than 8"):
        load(changed("/rules/0/release", nested(MAX_NESTING + 1)))

"""The policy's JSON Schema and the loader: what one takes the other takes, as far as a schema can tell."""

from __future__ import annotations

import datetime as dt
import json
import re
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simulators.fleet import policy_document

from local_cloud.certificates import create_authority
from local_cloud.credentials import default_policy
from shared.errors import FormatError
from shared.policy.document import MAX_NESTING, MAX_RULES, Operation, Operator, load_policy
from shared.types import WrapAlgorithm

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs" / "spec" / "release-policy.schema.json").read_text())
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
SPECIFICATION = (ROOT / "docs" / "spec" / "release-policy.md").read_text()
EXAMPLES = [
    json.loads(text) for text in re.findall(r"```json\n(\{\"version\".*?)```", SPECIFICATION, re.DOTALL)
]
EVERYTHING = {
    "version": "1.0.0",
    "id": "fleet-a",
    "serial": 12,
    "not_after": "2030-01-31T12:00:00Z",
    "description": "of everything there is",
    "rules": [
        {
            "id": "gateways",
            "keys": ["my_confidential_app", "Other-2"],
            "operations": ["distribute", "wrap"],
            "algorithms": [each.value for each in WrapAlgorithm],
            "lease_seconds": 60,
            "v1": True,
            "release": {
                "allOf": [
                    {"claim": "hub.tags.class", "equals": "gateway"},
                    {"claim": "hub.tags.ring", "notEquals": 2},
                    {"claim": "x509.not_after", "greater": 1.5},
                    {"claim": "x509.not_after", "greaterOrEquals": -1},
                    {"claim": "x509.not_after", "less": 2},
                    {"claim": "x509.not_after", "lessOrEquals": 2},
                    {"claim": "request.a.b.c.d.e.f.g.h", "exists": False},
                    {"anyOf": [{"claim": "caller.entra_id", "in": ["a", 1, 1.5, True]}, {"allOf": []}]},
                ]
            },
        },
        {
            "id": "all",
            "keys": ["*"],
            "operations": ["wrap"],
            "algorithms": ["HPKE-P256"],
            "release": {"anyOf": [{"claim": "attestation.level", "in": []}]},
        },
    ],
}
BASES = [
    EVERYTHING,
    policy_document("00" * 32),
    default_policy(create_authority("root", days=1).certificate),
    {"version": "1.0.0", "id": "p", "serial": 0, "rules": []},
    *EXAMPLES,
]


def complaint_about(document):
    """Return what the loader says against a document; None if nothing."""
    try:
        load_policy(json.dumps(document).encode(), where="policy")
    except FormatError as error:
        return str(error)
    return None


def fits(document):
    return VALIDATOR.is_valid(document)


def is_beyond_a_schema(document, complaint):
    """Tell whether the loader's complaint is one of those that the schema's own description names."""
    return (
        "a second rule is called" in complaint
        or f"nested deeper than {MAX_NESTING}" in complaint
        or ("/not_after" in complaint and no_such_day(document["not_after"]))
        or ("expected an integer of" in complaint and written_with_a_fraction(document, complaint))
    )


def no_such_day(text):
    try:
        dt.datetime.fromisoformat(text)
    except ValueError:
        return True
    return False


def written_with_a_fraction(document, complaint):
    value = document
    for step in re.search(r"at /(\S+):", complaint)[1].split("/"):
        value = value[int(step) if isinstance(value, list) else step]
    return isinstance(value, float) and value.is_integer()


def compare(document):
    complaint = complaint_about(document)
    if complaint is None:
        assert fits(document)
    else:
        assert not fits(document) or is_beyond_a_schema(document, complaint), complaint


def test_the_schema_is_a_schema_and_the_specification_has_examples():
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert EXAMPLES


@pytest.mark.parametrize("number", range(len(BASES)))
def test_schema_and_loader_take_every_good_policy(number):
    assert complaint_about(BASES[number]) is None
    assert fits(BASES[number])


def test_the_schema_lists_what_the_loader_knows():
    rule, condition = SCHEMA["$defs"]["rule"]["properties"], SCHEMA["$defs"]["condition"]["properties"]
    assert rule["operations"]["items"]["enum"] == [each.value for each in Operation]
    assert rule["algorithms"]["items"]["enum"] == [each.value for each in WrapAlgorithm]
    assert condition.keys() == {"claim"} | {each.value for each in Operator}


SCALARS = (
    st.none()
    | st.booleans()
    | st.sampled_from([-1, 0, 1, 59, 60, 366 * 86400, 366 * 86400 + 1, 2**53, 2**53 + 1, 12.0, 60.0, 1.5])
    | st.text(max_size=4)
    | st.sampled_from(
        [
            "1.0.0",
            "1.0.0\n",
            "x" * 64,
            "x" * 65,
            "x" * 4097,
            "a b",
            "a\n",
            "*",
            "app",
            "a.b",
            "wrap",
            "wrap\n",
            "RSA1_5",
            "hub.a",
            "hub",
            "hub.",
            "hub.a\n",
            "hub.a b",
            "hub.\u2003",
            "twin.a",
            "hub" + ".a" * 8,
            "hub" + ".a" * 9,
            f"hub.{'a' * 128}",
            f"hub.{'a' * 129}",
            "2030-02-30T00:00:00Z",
            "2030-13-01T00:00:00Z",
            "2030-01-01T24:00:00Z",
            "2030-01-01T00:00:60Z",
            "0000-01-01T00:00:00Z",
            "2030-01-01T00:00:00Z\n",
            "2030-01-01t00:00:00Z",
        ]
    )
)
NAMES = sorted(
    {
        "id",
        "keys",
        "rules",
        "release",
        "allOf",
        "anyOf",
        "claim",
        "v1",
        "like",
        *(each.value for each in Operator),
    }
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


def places(value, path=()):
    yield path
    children = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for name, child in children:
        yield from places(child, (*path, name))


@settings(max_examples=2000, deadline=None)
@given(base=st.sampled_from(BASES), value=VALUES, data=st.data())
def test_schema_and_loader_agree_about_any_value_anywhere(base, value, data):
    document = json.loads(json.dumps(base))
    path = data.draw(st.sampled_from([path for path in places(document) if path]))
    place = document
    for name in path[:-1]:
        place = place[name]
    action = data.draw(st.sampled_from(["replace", "remove", "add", "repeat"]))
    if action == "remove":
        del place[path[-1]]
    elif action == "add" and isinstance(place, dict):
        place[data.draw(st.sampled_from(NAMES) | st.text(max_size=3))] = value
    elif action == "repeat" and isinstance(place, list):
        place.append(place[path[-1]])
    else:
        place[path[-1]] = value
    compare(document)


@given(document=VALUES)
def test_schema_and_loader_agree_about_anything(document):
    compare(document)


@pytest.mark.parametrize("depth", [MAX_NESTING, MAX_NESTING + 1])
def test_how_deep_is_the_loaders_to_say(depth):
    release = {"anyOf": []}
    for _ in range(depth - 1):
        release = {"allOf": [release]}
    document = json.loads(json.dumps(EVERYTHING))
    document["rules"][0]["release"] = release
    assert fits(document)
    compare(document)


def test_both_bound_how_many_there_are():
    document = {
        **EVERYTHING,
        "rules": [{**EVERYTHING["rules"][0], "id": f"r{n}"} for n in range(MAX_RULES + 1)],
    }
    assert complaint_about(document) is not None
    assert not fits(document)

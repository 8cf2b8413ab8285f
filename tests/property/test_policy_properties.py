"""The release policy: default deny holds for any policy and any claims."""

from __future__ import annotations

import copy
import json
from datetime import UTC, datetime

from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import FormatError
from shared.policy.document import Operation, load_policy
from shared.policy.evaluate import Allowed, Denied, evaluate
from shared.types import KeyName

NOW = datetime(2026, 6, 1, tzinfo=UTC)
NAMES = ["app", "other"]
SCALARS = [True, False, 0, 1, 2, 1.0, "1", "true", "a"]
PATHS = ["hub.a", "hub.tags.b", "x509.c", "attestation.d"]

scalars = st.sampled_from(SCALARS)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)
any_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.binary(max_size=8)
    | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.dictionaries(st.sampled_from(["a", "tags", "b", "c", "d"]) | st.integers(), inner, max_size=4)
    ),
    max_leaves=10,
)


def condition(claim, operator, value):
    return {"claim": claim, operator: value}


conditions = st.one_of(
    st.builds(condition, st.sampled_from(PATHS), st.sampled_from(["equals", "notEquals"]), scalars),
    st.builds(
        condition,
        st.sampled_from(PATHS),
        st.sampled_from(["less", "lessOrEquals", "greater", "greaterOrEquals"]),
        st.sampled_from([0, 1, 1.5]),
    ),
    st.builds(condition, st.sampled_from(PATHS), st.just("exists"), st.booleans()),
    st.builds(condition, st.sampled_from(PATHS), st.just("in"), st.lists(scalars, max_size=3)),
)
combinators = st.recursive(
    st.builds(
        lambda name, terms: {name: terms},
        st.sampled_from(["allOf", "anyOf"]),
        st.lists(conditions, max_size=3),
    ),
    lambda inner: st.builds(
        lambda name, terms: {name: terms},
        st.sampled_from(["allOf", "anyOf"]),
        st.lists(conditions | inner, max_size=3),
    ),
    max_leaves=6,
)
rules = st.fixed_dictionaries(
    {
        "keys": st.sampled_from([["*"], ["app"], ["app", "other"], ["other"]]),
        "operations": st.sampled_from([["distribute"], ["wrap"], ["wrap", "distribute"]]),
        "algorithms": st.just(["RSA-OAEP-256"]),
        "v1": st.booleans(),
        "release": combinators,
    }
)
policies = st.lists(rules, max_size=4).map(
    lambda found: [{"id": f"r{number}", **rule} for number, rule in enumerate(found)]
)
claim_sets = st.fixed_dictionaries(
    {},
    optional={
        "hub": st.fixed_dictionaries(
            {}, optional={"a": scalars, "tags": st.fixed_dictionaries({}, optional={"b": scalars})}
        ),
        "x509": st.fixed_dictionaries({}, optional={"c": scalars}),
        "attestation": st.fixed_dictionaries({}, optional={"d": scalars}),
    },
)
questions = st.tuples(st.sampled_from(Operation), st.sampled_from(NAMES).map(KeyName), st.booleans())


A_IS_1 = {"claim": "hub.a", "equals": 1}


def answer(rule_list, question, claims):
    return judged({"version": "1.0.0", "id": "p", "serial": 0, "rules": rule_list}, question, claims)


def decided(document, question, claims):
    return isinstance(judged(document, question, claims), Allowed)


def judged(document, question, claims):
    loaded = load_policy(json.dumps(document).encode(), where="policy")
    operation, key_name, v1 = question
    return evaluate(loaded, operation=operation, key_name=key_name, claims=claims, v1=v1, at=NOW)


def allowed(rule_list, question, claims):
    return isinstance(answer(rule_list, question, claims), Allowed)


@settings(max_examples=300)
@given(st.one_of(st.binary(max_size=200), json_values.map(lambda value: json.dumps(value).encode())))
def test_any_bytes_are_a_policy_or_a_format_error(data):
    try:
        load_policy(data, where="policy")
    except FormatError as error:
        assert str(error).startswith("policy: ")  # noqa: PT017 - a parser may as well accept


@given(rule_list=policies, field=st.text(min_size=1, max_size=8), question=questions)
def test_an_unknown_field_anywhere_in_a_rule_rejects_the_document(rule_list, field, question):
    known = {"id", "keys", "operations", "algorithms", "v1", "release", "lease_seconds"}
    if rule_list and field not in known:
        rule_list[-1][field] = 1
        try:
            answer(rule_list, question, {})
        except FormatError as error:
            assert f"at /rules/{len(rule_list) - 1}/" in str(error)  # noqa: PT017 - pytest.raises hides the shrink
        else:
            raise AssertionError("an unknown field was loaded")


@given(rule_list=policies, question=questions, claims=any_values)
def test_evaluation_answers_whatever_the_claims_are(rule_list, question, claims):
    found = answer(rule_list, question, claims)
    assert isinstance(found, Allowed | Denied)
    assert not isinstance(found, Denied) or (found.reason and len(found.detail) < 1000)


@given(question=questions, claims=claim_sets)
def test_an_empty_policy_denies_everything(question, claims):
    assert answer([], question, claims).reason == "no_rule"


@given(rule_list=policies, question=questions, claims=claim_sets, data=st.data())
def test_removing_rules_never_allows_more(rule_list, question, claims, data):
    kept = data.draw(
        st.lists(st.sampled_from(rule_list), unique_by=lambda rule: rule["id"]) if rule_list else st.just([])
    )
    if allowed(kept, question, claims):
        assert allowed(rule_list, question, claims)


def drop(_, document, rule):
    document["rules"].remove(rule)


def add_a_term(data, _, rule):
    if found := list(all_of(rule["release"])):
        terms = data.draw(st.sampled_from(found))
        terms.insert(data.draw(st.integers(0, len(terms))), data.draw(conditions | combinators))


def put_into_an_all_of(data, _, rule):
    rule["release"] = {"allOf": [rule["release"], data.draw(conditions | combinators)]}


def take_an_alternative(data, _, rule):
    if found := list(any_of(rule["release"])):
        terms = data.draw(st.sampled_from(found))
        terms.remove(data.draw(st.sampled_from(terms)))


def take_a_key(data, _, rule):
    if rule["keys"] == ["*"]:
        rule["keys"] = data.draw(st.sampled_from([["app"], ["other"]]))
    elif len(rule["keys"]) > 1:
        rule["keys"].remove(data.draw(st.sampled_from(rule["keys"])))


def take_an_operation(data, _, rule):
    if len(rule["operations"]) > 1:
        rule["operations"].remove(data.draw(st.sampled_from(rule["operations"])))


def turn_off_v1(_, __, rule):
    rule["v1"] = False


def end(data, document, _):
    ends = ["2026-05-31T23:59:59Z", "2026-06-01T00:00:01Z"]
    document["not_after"] = data.draw(st.sampled_from(ends))


def reverse(_, document, __):
    """Not a condition, but nobody may win by it either."""
    document["rules"].reverse()


EDITS = [
    drop,
    add_a_term,
    put_into_an_all_of,
    take_an_alternative,
    take_a_key,
    take_an_operation,
    turn_off_v1,
    end,
    reverse,
]


def all_of(combinator):
    """Return the terms of every allOf."""
    return found_of(combinator, "allOf")


def any_of(combinator):
    return found_of(combinator, "anyOf")


def found_of(combinator, name):
    if "claim" in combinator:
        return
    (kind, terms), *_ = combinator.items()
    # An empty combinator never holds: a first term would make it hold.
    if kind == name and terms:
        yield terms
    for term in terms:
        yield from found_of(term, name)


@settings(max_examples=1000)
@given(
    rule_list=policies,
    asked=st.lists(st.tuples(questions, claim_sets), min_size=1, max_size=6),
    data=st.data(),
)
def test_edits_that_only_add_conditions_never_allow_more(rule_list, asked, data):
    before = {"version": "1.0.0", "id": "p", "serial": 0, "rules": rule_list}
    after = copy.deepcopy(before)
    for _ in range(data.draw(st.integers(1, 4))):
        if after["rules"]:
            edit, rule = data.draw(st.sampled_from(EDITS)), data.draw(st.sampled_from(after["rules"]))
            edit(data, after, rule)
    for question, claims in asked:
        if decided(after, question, claims):
            assert decided(before, question, claims)


def test_narrowing_the_first_rule_can_let_a_later_one_say_how():
    """Whether is monotone, how is not: section 3 of the specification says so, and what to do."""

    def policy(*strict):
        rule = {"keys": ["*"], "operations": ["wrap"], "v1": False}
        first = {**rule, "id": "strict", "algorithms": ["RSA-OAEP-256"], "release": {"allOf": list(strict)}}
        weak = {**rule, "id": "weak", "algorithms": ["RSA1_5"], "release": {"anyOf": [A_IS_1]}}
        return [first, weak]

    question, claims = (Operation.WRAP, KeyName("app"), False), {"hub": {"a": 1}}
    assert answer(policy(A_IS_1), question, claims).rule_id == "strict"
    assert answer(policy(A_IS_1, {"claim": "hub.b", "exists": True}), question, claims).rule_id == "weak"


@given(path=st.sampled_from(PATHS), operator=st.sampled_from(["equals", "in"]), value=scalars, found=scalars)
def test_values_of_different_types_are_never_equal(path, operator, value, found):
    group, *steps = path.split(".")
    claims = found
    for step in reversed(steps):
        claims = {step: claims}
    operand = [value] if operator == "in" else value
    rule_list = [
        {
            "id": "r",
            "keys": ["*"],
            "operations": ["distribute"],
            "algorithms": ["RSA-OAEP-256"],
            "release": {"anyOf": [condition(path, operator, operand)]},
        }
    ]
    equal = type(found) is type(value) and found == value
    assert allowed(rule_list, (Operation.DISTRIBUTE, KeyName("app"), False), {group: claims}) is equal


@given(rule_list=policies, question=questions, claims=claim_sets)
def test_without_claims_only_absence_can_be_satisfied(rule_list, question, claims):
    """A rule whose text holds no `exists: false` allows nothing to somebody about whom nothing is known."""
    if '"exists": false' not in json.dumps(rule_list):
        assert not allowed(rule_list, question, {})
    # And no question is ever answered by a rule for another operation, key or generation of device.
    found = answer(rule_list, question, claims)
    if isinstance(found, Allowed):
        operation, key_name, v1 = question
        (rule,) = (rule for rule in rule_list if rule["id"] == found.rule_id)
        assert operation.value in rule["operations"]
        assert rule["keys"] == ["*"] or key_name in rule["keys"]
        assert rule["v1"] or not v1


@given(rule_list=policies, asked=st.lists(questions, min_size=1, max_size=6), claims=claim_sets)
def test_rules_that_were_judged_before_answer_as_if_they_had_not_been(rule_list, asked, claims):
    document = {"version": "1.0.0", "id": "p", "serial": 0, "rules": rule_list}
    loaded = load_policy(json.dumps(document).encode(), where="policy")
    shared = {}
    for operation, key_name, v1 in asked:
        ask = {"operation": operation, "key_name": key_name, "claims": claims, "v1": v1, "at": NOW}
        assert evaluate(loaded, **ask, judged=shared) == evaluate(loaded, **ask)

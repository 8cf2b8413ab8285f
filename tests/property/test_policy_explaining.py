"""Explaining and linting agree with deciding, for any policy and any claims."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from shared.policy.document import Operation, load_policy
from shared.policy.evaluate import Allowed, evaluate
from shared.policy.explaining import ExplainedCombinator, explain
from shared.policy.linting import lint_policy
from shared.types import KeyName

NOW = datetime(2026, 6, 1, tzinfo=UTC)
SCALARS = [True, 1, 1.0, 2, "1"]
# What each operation can come with; a rule may ask for more.
VOUCHED = {Operation.DISTRIBUTE: ["hub.a", "x509.b"], Operation.WRAP: ["x509.b", "caller.c"]}

scalars = st.sampled_from(SCALARS)
claim_paths = st.sampled_from(["hub.a", "x509.b", "caller.c"])
conditions = st.one_of(
    st.builds(
        lambda claim, name, value: {"claim": claim, name: value},
        claim_paths,
        st.sampled_from(["equals", "notEquals"]),
        scalars,
    ),
    st.builds(
        lambda claim, name, value: {"claim": claim, name: value},
        claim_paths,
        st.sampled_from(["less", "lessOrEquals", "greater", "greaterOrEquals"]),
        st.sampled_from([1, 1.0, 2]),
    ),
    st.builds(lambda claim, value: {"claim": claim, "exists": value}, claim_paths, st.booleans()),
    st.builds(lambda claim, value: {"claim": claim, "in": value}, claim_paths, st.lists(scalars, max_size=2)),
)


def combinator(terms):
    return st.builds(
        lambda name, found: {name: found}, st.sampled_from(["allOf", "anyOf"]), st.lists(terms, max_size=3)
    )


combinators = combinator(conditions | combinator(conditions | combinator(conditions)))
rules = st.fixed_dictionaries(
    {
        "keys": st.sampled_from([["*"], ["app"], ["app", "other"], ["other"]]),
        "operations": st.sampled_from([["distribute"], ["wrap"], ["wrap", "distribute"]]),
        "algorithms": st.just(["RSA-OAEP-256"]),
        "v1": st.booleans(),
        "release": combinators,
    }
)


@st.composite
def policies(draw):
    found = draw(st.lists(rules, max_size=4))
    if found and draw(st.booleans()):  # one rule again, with a condition more: often shadowed
        again = json.loads(json.dumps(found[0]))
        next(iter(again["release"].values())).append(draw(conditions))
        found.append(again)
    document = {
        "version": "1.0.0",
        "id": "p",
        "serial": 0,
        "rules": [{"id": f"r{number}", **rule} for number, rule in enumerate(found)],
    }
    if draw(st.integers(0, 5)) == 0:
        document["not_after"] = f"{NOW + draw(st.sampled_from([-1, 0, 1])) * timedelta(days=1):%Y-%m-%dT%XZ}"
    return load_policy(json.dumps(document).encode(), where="policy")


def claim_sets(operation):
    chosen = st.fixed_dictionaries({}, optional=dict.fromkeys(VOUCHED[operation], scalars))
    return chosen.map(
        lambda found: {path.split(".")[0]: {path.split(".")[1]: value} for path, value in found.items()}
    )


@st.composite
def questions(draw):
    operation = draw(st.sampled_from(Operation))
    return {
        "operation": operation,
        "key_name": KeyName(draw(st.sampled_from(["app", "other"]))),
        "claims": draw(claim_sets(operation)),
        "v1": draw(st.booleans()),
        "at": draw(st.sampled_from([NOW, None])),
    }


@settings(max_examples=500)
@given(policy=policies(), question=questions())
def test_the_tree_of_an_explanation_comes_to_what_evaluate_decides(policy, question):
    verdict = evaluate(policy, **question)

    explained = explain(policy, **question)

    assert explained.verdict == verdict
    assert (explained.deciding is not None) == isinstance(verdict, Allowed)
    if explained.deciding is not None:
        assert explained.deciding.rule.id == verdict.rule_id
    assert explained.ended == (not isinstance(verdict, Allowed) and verdict.reason == "policy_expired")
    assert [each.rule for each in explained.rules] == list(policy.rules)


def _terms(explained):
    yield explained
    for term in explained.terms:
        if isinstance(term, ExplainedCombinator):
            yield from _terms(term)


@given(policy=policies(), question=questions())
def test_every_combinator_of_an_explanation_follows_from_its_terms(policy, question):
    for rule in explain(policy, **question).rules:
        for each in _terms(rule.release):
            held = [term.holds for term in each.terms]
            enough = any(held) if each.quantifier.value == "anyOf" else all(held)
            assert each.holds == (enough and bool(held))


@settings(max_examples=500)
@given(policy=policies(), question=questions())
def test_a_rule_that_is_told_never_to_match_or_decide_does_not(policy, question):
    verdict = evaluate(policy, **question)
    if not isinstance(verdict, Allowed):
        return
    number = [rule.id for rule in policy.rules].index(verdict.rule_id)

    for finding in lint_policy(policy, at=NOW):
        if finding.code == "shadowed":
            assert finding.pointer != f"/rules/{number}"
        if finding.code == "never_matches" and f"for {question['operation'].value}:" in finding.message:
            assert finding.pointer != f"/rules/{number}/release"

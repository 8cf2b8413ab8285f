"""Decide what a policy allows (protocol section 7).

The first rule that names the key and the operation and whose conditions hold decides. Everything else denies:
no such rule, an empty combinator, a claim that is missing or of another type (1 is not true, 1 is not 1.0), a
policy that has ended. Nothing here raises and nothing here depends on a clock: the same policy, claims and
time give the same decision.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from shared.policy.document import Combinator, Condition, Operator, Quantifier

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from shared.policy.claims import Claims
    from shared.policy.document import Operation, Policy, Rule
    from shared.types import KeyName, WrapAlgorithm

_SHOWN_CHARACTERS = 80
_LARGEST_SHOWN = 2**64
_MISSING: Final = object()
_SCALARS = (bool, int, float, str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """The policy allows it.

    Args:
        rule_id: Which rule.
        algorithms: How the key may be wrapped, the preferred one first; the first that fits the receiver's
            key is used, and if none fits nothing is.
        lease_seconds: How long the release may be applied.
        v1: Whether the rule is also for devices that cannot verify a release.
    """

    rule_id: str
    algorithms: tuple[WrapAlgorithm, ...]
    lease_seconds: int
    v1: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Denied:
    """The policy does not allow it.

    Args:
        reason: ``policy_expired`` ``no_rule`` ``v1_not_allowed`` or ``claim_failed``.
        detail: Which rule, which claim, what was expected and found; claims are not secret.
    """

    reason: str
    detail: str


def evaluate(
    policy: Policy,
    *,
    operation: Operation,
    key_name: KeyName,
    claims: Claims,
    v1: bool = False,
    at: datetime | None = None,
    judged: dict[str, Allowed | str] | None = None,
) -> Allowed | Denied:
    """Decide whether an operation on a class key is allowed.

    Args:
        policy: From :func:`shared.policy.document.load_policy`.
        operation: What is asked for.
        key_name: On which class key.
        claims: Verified ones, by group.
        v1: Whether it is for a device that cannot verify a release; only rules with ``"v1": true`` match it.
        at: Now, aware. A policy with a ``not_after`` denies where no time is given.
        judged: What each rule that was looked at comes to over these very claims, by its id: that it allows,
            or what does not hold. Whoever asks for many keys gives the same one each time; it is added to.
    """
    judged = {} if judged is None else judged
    if policy.not_after is not None and (at is None or at >= policy.not_after):
        return Denied(
            reason="policy_expired",
            detail=f"policy {policy.id} serial {policy.serial} ended at {policy.not_after.isoformat()}",
        )
    rules = [rule for rule in policy.rules if rule_names(rule, operation, key_name)]
    if not rules:
        return Denied(
            reason="no_rule",
            detail=f"no rule of policy {policy.id} names {operation.value} of key {key_name}",
        )
    failures = []
    for rule in rules:
        if v1 and not rule.v1:
            continue
        found = judged.get(rule.id)
        if found is None:
            found = judged[rule.id] = _judge(rule, claims)
        if isinstance(found, Allowed):
            return found
        failures.append((rule, found))
    if not failures:
        return Denied(reason="v1_not_allowed", detail=f"rule {rules[0].id}: it is not for v1 devices")
    # A rule that names the key explains more than one that is for every key.
    rule, failure = min(failures, key=lambda each: each[0].keys is None)
    return Denied(reason="claim_failed", detail=f"rule {rule.id}: {failure}")


def rules_in_reach(
    policy: Policy, *, operation: Operation, key_name: KeyName, claims: Claims
) -> tuple[str, ...]:
    """Return the ids of the rules that may allow an operation, whatever the groups say that are not known.

    A rule that is left out denies for certain: :func:`evaluate` over these groups and any others never
    answers it.

    Args:
        policy: From :func:`shared.policy.document.load_policy`.
        operation: What is asked for.
        key_name: On which class key.
        claims: The groups that are known, each with all of its claims.
    """
    return tuple(
        rule.id
        for rule in policy.rules
        if rule_names(rule, operation, key_name) and _may_hold(rule.release, claims)
    )


def _may_hold(term: Condition | Combinator, claims: Claims) -> bool:
    if isinstance(term, Condition):
        group, _, _ = term.claim.partition(".")
        return group not in claims or condition_holds(term, find_claim(term.claim, claims))
    may = [_may_hold(each, claims) for each in term.terms]
    return any(may) if term.quantifier is Quantifier.ANY_OF else bool(may) and all(may)


def rule_names(rule: Rule, operation: Operation, key_name: KeyName) -> bool:
    """Return whether a rule is for an operation on a class key."""
    return (rule.keys is None or key_name in rule.keys) and operation in rule.operations


def _judge(rule: Rule, claims: Claims) -> Allowed | str:
    failure = _failure(rule.release, claims)
    if failure is not None:
        return failure
    return Allowed(rule_id=rule.id, algorithms=rule.algorithms, lease_seconds=rule.lease_seconds, v1=rule.v1)


def _failure(term: Condition | Combinator, claims: Claims) -> str | None:
    """Return what does not hold, or None if the term holds."""
    if isinstance(term, Condition):
        found = find_claim(term.claim, claims)
        if condition_holds(term, found):
            return None
        return f"{term.claim} {term.operator.value} {shown_value(term.value)}, found {shown_value(found)}"
    if not term.terms:
        return f"an empty {term.quantifier.value} never holds"
    failures = [_failure(each, claims) for each in term.terms]
    failed = [failure for failure in failures if failure is not None]
    if term.quantifier is Quantifier.ANY_OF and len(failed) < len(failures):
        return None
    return failed[0] if failed else None


def find_claim(claim: str, claims: Claims) -> object:
    """Follow a dot path; what is not a mapping has no members, and what is not there is a mark of its own."""
    value: object = claims
    for step in claim.split("."):
        if not isinstance(value, Mapping) or step not in value:
            return _MISSING
        value = value[step]
    return value


def condition_holds(condition: Condition, found: object) -> bool:
    """Return whether a condition holds over what :func:`find_claim` found for it."""
    if condition.operator is Operator.EXISTS:
        # A null is neither: it vouches for nothing, and it is not absent.
        return found is not None and (found is not _MISSING) is condition.value
    if type(found) not in _SCALARS:  # missing, null or a mapping: no comparison holds, notEquals included
        return False
    return _COMPARE[condition.operator](found, condition.value)


def _equals(found: object, value: object) -> bool:
    return type(found) is type(value) and found == value


def _not_equals(found: object, value: object) -> bool:
    return type(found) is type(value) and found != value


def _is_in(found: object, values: object) -> bool:
    return isinstance(values, tuple) and any(_equals(found, value) for value in values)


def _ordered(compare: Callable[[float, float], bool]) -> Callable[[object, object], bool]:
    def holds(found: object, value: object) -> bool:
        if isinstance(found, bool) or isinstance(value, bool):
            return False
        return isinstance(found, int | float) and isinstance(value, int | float) and compare(found, value)

    return holds


_COMPARE: Final[dict[Operator, Callable[[object, object], bool]]] = {
    Operator.EQUALS: _equals,
    Operator.NOT_EQUALS: _not_equals,
    Operator.LESS: _ordered(operator.lt),
    Operator.LESS_OR_EQUALS: _ordered(operator.le),
    Operator.GREATER: _ordered(operator.gt),
    Operator.GREATER_OR_EQUALS: _ordered(operator.ge),
    Operator.IN: _is_in,
}


def shown_value(value: object) -> str:
    """Return a short picture of a claim or an operand."""
    if value is _MISSING:
        return "nothing"
    if isinstance(value, tuple):
        return _short(f"[{', '.join(map(shown_value, value[:16]))}]")
    if type(value) not in _SCALARS:
        return f"a {type(value).__name__}"
    if isinstance(value, int) and abs(value) > _LARGEST_SHOWN:  # some have more digits than Python converts
        return "a larger integer"
    return _short(json.dumps(value))


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN_CHARACTERS else text[:_SHOWN_CHARACTERS] + "…"

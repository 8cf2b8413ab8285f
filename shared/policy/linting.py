"""Find what a policy allows or forbids by mistake: sound documents that hardly mean what they say.

A finding is a warning and refuses nothing. Each stands at the JSON pointer (RFC 6901) of its place:

=================== ==================================================================================
code                meaning
=================== ==================================================================================
policy_ended        its ``not_after`` has passed: it denies everything
no_rules            it denies everything
never_matches       the rule's conditions hold for no claims that its operation ever comes with
shadowed            an earlier rule matches whenever this one does, and decides
every_key           ``"*"``: class keys that do not exist yet are included
rsa1_5              RSA PKCS#1 v1.5 wraps without a proof of integrity; for the reference's peers only
no_certificate      a device gets keys without any claim about its certificate
certificate_unbound a device gets keys under a certificate that may be another device's, or another key's
=================== ==================================================================================

A rule that is told to be ``never_matches`` or ``shadowed`` is so; not every rule that is so is found.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from shared.policy.document import Combinator, Condition, Operation, Operator, Quantifier
from shared.policy.evaluate import condition_holds
from shared.policy.pointer import Pointer
from shared.types import WrapAlgorithm

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from shared.policy.document import Policy, Rule, Scalar

_VOUCHED: Final = {
    Operation.DISTRIBUTE: frozenset({"hub", "x509", "attestation"}),
    Operation.WRAP: frozenset({"x509", "attestation", "caller", "request"}),
}
"""The groups of claims that an operation can come with."""

_LOWER: Final = (Operator.GREATER, Operator.GREATER_OR_EQUALS)
_UPPER: Final = (Operator.LESS, Operator.LESS_OR_EQUALS)
_BINDING: Final = ("x509.device_id_matches", "x509.key_matches")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One warning: its place as a JSON pointer, a stable code, a sentence."""

    pointer: str
    code: str
    message: str


def lint_policy(policy: Policy, *, at: datetime) -> tuple[Finding, ...]:
    """Return what is questionable about a policy, in the document's order.

    Args:
        policy: A loaded one.
        at: Now, aware.
    """
    return tuple(_findings(policy, at))


def _findings(policy: Policy, at: datetime) -> Iterator[Finding]:
    root = Pointer("policy")
    if policy.not_after is not None and at >= policy.not_after:
        yield _finding(root.down("not_after"), "policy_ended", "the policy has ended: it denies everything")
    if not policy.rules:
        yield _finding(root.down("rules"), "no_rules", "there is no rule: it denies everything")
    for number, rule in enumerate(policy.rules):
        here = root.down("rules").down(number)
        yield from _unmatched(rule, policy.rules[:number], here)
        yield from _generous(rule, here)


def _finding(at: Pointer, code: str, message: str) -> Finding:
    return Finding(pointer=at.path, code=code, message=message)


def _unmatched(rule: Rule, earlier: Sequence[Rule], at: Pointer) -> Iterator[Finding]:
    operations = sorted(rule.operations, key=lambda operation: operation.value)
    for operation in operations:
        if not _can_hold(rule.release, _VOUCHED[operation]):
            message = f"rule {rule.id} never matches for {operation.value}: its conditions cannot hold"
            yield _finding(at.down("release"), "never_matches", message)
    for other in earlier:
        if _covers(other, rule):
            message = f"rule {rule.id} never decides: whenever it matches, rule {other.id} did before"
            yield _finding(at, "shadowed", message)
            return


def _generous(rule: Rule, at: Pointer) -> Iterator[Finding]:
    if rule.keys is None:
        message = f"rule {rule.id} is for every class key, those to come included"
        yield _finding(at.down("keys"), "every_key", message)
    if WrapAlgorithm.RSA1_5 in rule.algorithms:
        where = at.down("algorithms").down(rule.algorithms.index(WrapAlgorithm.RSA1_5))
        yield _finding(where, "rsa1_5", f"rule {rule.id} allows RSA1_5: for the reference's peers only")
    if Operation.DISTRIBUTE not in rule.operations:
        return
    if not _demands(rule.release, lambda condition: condition.claim.startswith("x509.")):
        message = f"rule {rule.id} gives keys to devices without asking for a certificate"
        yield _finding(at.down("release"), "no_certificate", message)
        return
    for claim in _BINDING:
        if not _demands(rule.release, partial(_is_true, claim)):
            message = f"rule {rule.id} does not ask for {claim}: any certificate of the fleet would do"
            yield _finding(at.down("release"), "certificate_unbound", message)


def _is_true(claim: str, condition: Condition) -> bool:
    return condition.claim == claim and condition.operator is Operator.EQUALS and condition.value is True


def _demands(term: Condition | Combinator, wanted: Callable[[Condition], bool]) -> bool:
    """Return whether the term holds only where a wanted condition about something present does."""
    if isinstance(term, Condition):
        return wanted(term) and not _wants_absence(term)
    if term.quantifier is Quantifier.ALL_OF:
        return any(_demands(each, wanted) for each in term.terms)
    return all(_demands(each, wanted) for each in term.terms)


def _wants_absence(condition: Condition) -> bool:
    return condition.operator is Operator.EXISTS and condition.value is False


def _covers(earlier: Rule, later: Rule) -> bool:
    """Return whether an earlier rule surely matches wherever a later one does."""
    keys = earlier.keys is None or (later.keys is not None and later.keys <= earlier.keys)
    return (
        keys
        and later.operations <= earlier.operations
        and (earlier.v1 or not later.v1)
        and _implies(later.release, earlier.release)
    )


def _implies(stronger: Combinator, weaker: Combinator) -> bool:
    """Return whether one surely holds wherever the other does: it is the other, or that and more."""
    if not weaker.terms:
        return False
    if _same(stronger, weaker):
        return True
    both_all = stronger.quantifier is weaker.quantifier is Quantifier.ALL_OF
    return both_all and all(any(_same(term, each) for each in stronger.terms) for term in weaker.terms)


def _same(left: Condition | Combinator, right: Condition | Combinator) -> bool:
    """Return whether two terms are one; to ``==`` alone, 1 is true and 1.0."""
    return repr(left) == repr(right)


def _can_hold(term: Condition | Combinator, groups: frozenset[str]) -> bool:
    if isinstance(term, Condition):
        return _agree([term], groups)
    if not term.terms:
        return False
    if term.quantifier is Quantifier.ANY_OF:
        return any(_can_hold(each, groups) for each in term.terms)
    together: dict[str, list[Condition]] = {}
    for each in _flattened(term):
        if isinstance(each, Condition):
            together.setdefault(each.claim, []).append(each)
        elif not _can_hold(each, groups):
            return False
    return all(_agree(conditions, groups) for conditions in together.values())


def _flattened(term: Combinator) -> Iterator[Condition | Combinator]:
    """Return the terms that all have to hold; an empty combinator stays, for it never does."""
    for each in term.terms:
        if isinstance(each, Combinator) and each.quantifier is Quantifier.ALL_OF and each.terms:
            yield from _flattened(each)
        else:
            yield each


def _agree(conditions: Sequence[Condition], groups: frozenset[str]) -> bool:
    """Return whether conditions on one claim could hold together."""
    if any(_wants_absence(condition) for condition in conditions):
        return all(_wants_absence(condition) for condition in conditions)
    if conditions[0].claim.partition(".")[0] not in groups:
        return False
    candidates = _candidates(conditions)
    if candidates is not None:
        return any(all(condition_holds(each, value) for each in conditions) for value in candidates)
    return _kinds_agree(conditions) and _bounds_agree(conditions)


def _candidates(conditions: Sequence[Condition]) -> tuple[Scalar, ...] | None:
    """Return the only values that could do, or None where a condition does not enumerate them."""
    for condition in conditions:
        if condition.operator is Operator.IN and isinstance(condition.value, tuple):
            return condition.value
        if condition.operator is Operator.EQUALS and not isinstance(condition.value, tuple):
            return (condition.value,)
    return None


def _kinds_agree(conditions: Sequence[Condition]) -> bool:
    """Return whether one type can satisfy all: ``notEquals`` asks for its operand's, bounds for a number."""
    kinds = {int, float, bool, str}
    for condition in conditions:
        if condition.operator is Operator.NOT_EQUALS:
            kinds &= {type(condition.value)}
        elif condition.operator is not Operator.EXISTS:
            kinds &= {int, float}
    return bool(kinds)


def _bounds_agree(conditions: Sequence[Condition]) -> bool:
    lower = [each for each in conditions if each.operator in _LOWER]
    upper = [each for each in conditions if each.operator in _UPPER]
    return all(_bounds_meet(low, high) for low in lower for high in upper)


def _bounds_meet(low: Condition, high: Condition) -> bool:
    least, most = low.value, high.value
    if not isinstance(least, int | float) or not isinstance(most, int | float):
        return True
    closed = low.operator is Operator.GREATER_OR_EQUALS and high.operator is Operator.LESS_OR_EQUALS
    return least < most or (closed and least == most)

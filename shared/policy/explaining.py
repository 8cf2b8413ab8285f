"""Explain what a policy decides: every rule, every condition, what was expected and what was found.

:func:`shared.policy.evaluate.evaluate` decides and stops as early as it can; here every term is looked at, by
the same comparisons. Tests hold the two to the same verdict for any policy and any claims.

Example:
    >>> explained = explain(policy, operation=Operation.DISTRIBUTE, key_name=name, claims=claims, at=now)
    >>> [rule.rule.id for rule in explained.rules if rule.matches]
    ['gateways']
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.policy.document import Combinator, Condition, Quantifier
from shared.policy.evaluate import (
    Allowed,
    Denied,
    condition_holds,
    evaluate,
    find_claim,
    rule_names,
    shown_value,
)

if TYPE_CHECKING:
    from datetime import datetime

    from shared.policy.claims import Claims
    from shared.policy.document import Operation, Policy, Rule
    from shared.types import KeyName


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedCondition:
    """One comparison.

    Args:
        claim: Dot path of what was looked at.
        expected: Operator and operand, short.
        found: A short picture of the claim's value; ``nothing`` if it is absent.
        holds: Whether the comparison holds.
    """

    claim: str
    expected: str
    found: str
    holds: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedCombinator:
    """Several terms.

    Args:
        quantifier: How many have to hold.
        terms: Each of them, as they stand in the policy.
        holds: Whether enough of them hold; never, if there are none.
    """

    quantifier: Quantifier
    terms: tuple[ExplainedCondition | ExplainedCombinator, ...]
    holds: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ExplainedRule:
    """One rule.

    Args:
        rule: As the policy has it.
        passed_over: Why its conditions are not asked at all, or None: it is for another key or operation, or
            not for devices that cannot verify a release.
        release: Its conditions; looked at even if the rule is passed over.
    """

    rule: Rule
    passed_over: str | None
    release: ExplainedCombinator

    @property
    def matches(self) -> bool:
        """Whether this rule allows what was asked."""
        return self.passed_over is None and self.release.holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """A decision, and all that it rests on.

    Args:
        verdict: What :func:`shared.policy.evaluate.evaluate` says.
        ended: Whether the policy has ended, which denies whatever its rules say.
        rules: Every rule in order; the first that matches decides.
    """

    verdict: Allowed | Denied
    ended: bool
    rules: tuple[ExplainedRule, ...]

    @property
    def deciding(self) -> ExplainedRule | None:
        """The rule that allows it, or None."""
        return None if self.ended else next((rule for rule in self.rules if rule.matches), None)


def explain(
    policy: Policy,
    *,
    operation: Operation,
    key_name: KeyName,
    claims: Claims,
    v1: bool = False,
    at: datetime | None = None,
) -> Explanation:
    """Explain whether an operation on a class key is allowed; the arguments are those of ``evaluate``."""
    return Explanation(
        verdict=evaluate(policy, operation=operation, key_name=key_name, claims=claims, v1=v1, at=at),
        ended=policy.not_after is not None and (at is None or at >= policy.not_after),
        rules=tuple(
            ExplainedRule(
                rule=rule,
                passed_over=_passed_over(rule, operation, key_name, v1=v1),
                release=_explain_combinator(rule.release, claims),
            )
            for rule in policy.rules
        ),
    )


def _passed_over(rule: Rule, operation: Operation, key_name: KeyName, *, v1: bool) -> str | None:
    if operation not in rule.operations:
        return f"it is not for {operation.value}"
    if not rule_names(rule, operation, key_name):
        return f"it does not name {key_name}"
    return "it is not for v1 devices" if v1 and not rule.v1 else None


def _explain_combinator(combinator: Combinator, claims: Claims) -> ExplainedCombinator:
    terms = tuple(
        _explain_condition(term, claims) if isinstance(term, Condition) else _explain_combinator(term, claims)
        for term in combinator.terms
    )
    enough = any if combinator.quantifier is Quantifier.ANY_OF else all
    return ExplainedCombinator(
        quantifier=combinator.quantifier,
        terms=terms,
        holds=bool(terms) and enough(term.holds for term in terms),
    )


def _explain_condition(condition: Condition, claims: Claims) -> ExplainedCondition:
    found = find_claim(condition.claim, claims)
    return ExplainedCondition(
        claim=condition.claim,
        expected=f"{condition.operator.value} {shown_value(condition.value)}",
        found=shown_value(found),
        holds=condition_holds(condition, found),
    )

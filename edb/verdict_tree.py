"""Show a judgement: a tree of rules and conditions, each with ✓ or ✗, or the same as JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edb.output import on_terminal
from shared.command_line.output import print_line, printable
from shared.policy.evaluate import Allowed
from shared.policy.explaining import ExplainedCombinator

if TYPE_CHECKING:
    from edb.judging import Judgement
    from shared.policy.explaining import ExplainedCondition, ExplainedRule, Explanation

_HOLDS, _FAILS, _PASSED_OVER = "✓", "✗", "·"
_STYLES = {_HOLDS: "green", _FAILS: "red", _PASSED_OVER: "dim"}
_MEANING = {"anyOf": "any of", "allOf": "all of"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One line of a tree, and the lines below it."""

    mark: str
    text: str
    below: tuple[Node, ...] = field(default=())


def print_judgement(judgement: Judgement) -> None:
    """Write the verdict, then the tree that it rests on."""
    tree = Node(
        mark=_FAILS if judgement.denial is not None else _HOLDS,
        text=_headline(judgement),
        below=() if judgement.explanation is None else tuple(_rules(judgement.explanation)),
    )
    if on_terminal():
        _draw(tree)
    else:
        _write(tree, depth=0)


def judgement_document(judgement: Judgement) -> dict[str, object]:
    """Return the judgement for machines."""
    denial, explanation = judgement.denial, judgement.explanation
    verdict = None if explanation is None else explanation.verdict
    document: dict[str, object] = {
        "result": "ok" if denial is None else "refused",
        "verdict": "allowed" if denial is None else "denied",
        "subject": judgement.subject,
        "operation": judgement.operation.value,
        "key_name": judgement.key_name,
    }
    if denial is not None:
        document |= {"code": denial.reason, "message": denial.detail}
    if isinstance(verdict, Allowed):
        document |= {"rule": verdict.rule_id, "lease_seconds": verdict.lease_seconds}
    if judgement.algorithm is not None:
        document["algorithm"] = judgement.algorithm.value
    document["rules"] = [] if explanation is None else [_rule_document(rule) for rule in explanation.rules]
    return document


def _headline(judgement: Judgement) -> str:
    asked = f"{judgement.operation.value} {judgement.key_name} for {judgement.subject}"
    if judgement.denial is not None:
        return f"{asked}: denied: {judgement.denial.reason}: {judgement.denial.detail}"
    verdict = None if judgement.explanation is None else judgement.explanation.verdict
    if not isinstance(verdict, Allowed) or judgement.algorithm is None:
        return asked
    return (
        f"{asked}: allowed by rule {verdict.rule_id} "
        f"({judgement.algorithm.value}, lease {verdict.lease_seconds} s)"
    )


def _rules(explanation: Explanation) -> list[Node]:
    ended = [Node(mark=_FAILS, text="the policy has ended")] if explanation.ended else []
    return ended + [_rule(rule) for rule in explanation.rules]


def _rule(explained: ExplainedRule) -> Node:
    name = f"rule {explained.rule.id}"
    if explained.passed_over is not None:
        return Node(mark=_PASSED_OVER, text=f"{name}: {explained.passed_over}")
    return Node(mark=_mark(holds=explained.matches), text=name, below=(_term(explained.release),))


def _term(term: ExplainedCombinator | ExplainedCondition) -> Node:
    if isinstance(term, ExplainedCombinator):
        empty = "" if term.terms else " nothing: never holds"
        return Node(
            mark=_mark(holds=term.holds),
            text=f"{_MEANING[term.quantifier.value]}{empty}",
            below=tuple(_term(each) for each in term.terms),
        )
    return Node(mark=_mark(holds=term.holds), text=f"{term.claim} {term.expected}, found {term.found}")


def _mark(*, holds: bool) -> str:
    return _HOLDS if holds else _FAILS


def _write(node: Node, *, depth: int) -> None:
    print_line(f"{'  ' * depth}{node.mark} {node.text}")
    for each in node.below:
        _write(each, depth=depth + 1)


def _draw(root: Node) -> None:
    from rich.console import Console  # noqa: PLC0415 - slow to import, and only drawn with
    from rich.text import Text  # noqa: PLC0415 - as above
    from rich.tree import Tree  # noqa: PLC0415 - as above

    def label(node: Node) -> Text:
        return Text.assemble((node.mark, _STYLES[node.mark]), " ", printable(node.text))

    def grow(tree: Tree, node: Node) -> None:
        for each in node.below:
            grow(tree.add(label(each)), each)

    tree = Tree(label(root), guide_style="dim")
    grow(tree, root)
    Console().print(tree)


def _rule_document(explained: ExplainedRule) -> dict[str, object]:
    return {
        "id": explained.rule.id,
        "matches": explained.matches,
        "passed_over": explained.passed_over,
        "release": _term_document(explained.release),
    }


def _term_document(term: ExplainedCombinator | ExplainedCondition) -> dict[str, object]:
    if isinstance(term, ExplainedCombinator):
        below = [_term_document(each) for each in term.terms]
        return {"holds": term.holds, term.quantifier.value: below}
    return {"holds": term.holds, "claim": term.claim, "expected": term.expected, "found": term.found}

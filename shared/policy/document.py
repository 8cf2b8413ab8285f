"""Load a release policy: Azure Secure Key Release grammar and our superset (protocol section 7).

A policy is loaded whole or not at all. An unknown field or operator, a second rule of one id, a value of a
type that its operator cannot compare: each refuses the document, naming the fault's JSON pointer (RFC 6901).
What loads cannot fail later.

Example:
    >>> policy = load_policy(path.read_bytes(), where="policy.json")
    >>> policy.rules[0].id
    'gateways'
"""

from __future__ import annotations

import enum
import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final, TypeVar

from shared import strict_json
from shared.errors import FormatError
from shared.policy.pointer import Pointer
from shared.types import KeyName, WrapAlgorithm, parse_key_name

if TYPE_CHECKING:
    from collections.abc import Callable

GRAMMAR_VERSION: Final = "1.0.0"
"""The only ``version`` of the grammar."""

MAX_POLICY_BYTES: Final = 256 * 1024
"""Longest policy that is read."""

MAX_RULES: Final = 1024
"""Most rules in a policy, most names in a rule, most terms in a combinator, most values behind ``in``."""

MAX_NESTING: Final = 8
"""Deepest nesting of combinators; the one at ``release`` is the first."""

MAX_SERIAL: Final = 2**53
"""Highest serial, the last integer that every JSON reader holds exactly."""

LEASE_SECONDS: Final = 30 * 86_400
"""The lease where a rule states none."""

MIN_LEASE_SECONDS: Final = 60
"""Shortest lease."""

MAX_LEASE_SECONDS: Final = 366 * 86_400
"""Longest lease."""

CLAIM_GROUPS: Final = ("hub", "x509", "attestation", "caller", "request")
"""Who can vouch for a claim."""

_ID = re.compile(r"[\x21-\x7e]{1,64}")
_CLAIM = re.compile(rf"({'|'.join(CLAIM_GROUPS)})(\.[^.\s\x00-\x1f]{{1,128}}){{1,8}}")
_UTC_TIME = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z", re.ASCII)
_MAX_DESCRIPTION = 4096

Scalar = bool | int | float | str
"""What a claim is compared with."""

_E = TypeVar("_E", bound=enum.Enum)


class Operation(enum.Enum):
    """What a rule can allow."""

    DISTRIBUTE = "distribute"
    WRAP = "wrap"


class Operator(enum.Enum):
    """How a condition compares a claim with its value."""

    EQUALS = "equals"
    NOT_EQUALS = "notEquals"
    LESS = "less"
    LESS_OR_EQUALS = "lessOrEquals"
    GREATER = "greater"
    GREATER_OR_EQUALS = "greaterOrEquals"
    EXISTS = "exists"
    IN = "in"


class Quantifier(enum.Enum):
    """How many terms of a combinator have to hold; with no terms at all, neither does."""

    ANY_OF = "anyOf"
    ALL_OF = "allOf"


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """One comparison.

    Args:
        claim: Dot path, its group first: ``hub.tags.class``.
        operator: How to compare.
        value: With what; a tuple for ``in``, a boolean for ``exists``.
    """

    claim: str
    operator: Operator
    value: Scalar | tuple[Scalar, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Combinator:
    """Several terms.

    Args:
        quantifier: How many have to hold.
        terms: Conditions and further combinators.
    """

    quantifier: Quantifier
    terms: tuple[Condition | Combinator, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One rule.

    Args:
        id: Its name in audit records.
        keys: The class keys it is for; None means every key.
        operations: What it allows.
        algorithms: How the key may be wrapped, the preferred one first.
        lease_seconds: How long a release under it may be applied.
        v1: Whether it is also for devices that cannot verify a release.
        release: What has to hold.
    """

    id: str
    keys: frozenset[KeyName] | None
    operations: frozenset[Operation]
    algorithms: tuple[WrapAlgorithm, ...]
    lease_seconds: int
    v1: bool
    release: Combinator


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A loaded policy.

    Args:
        id: Its name.
        serial: Grows with every change; :mod:`shared.policy.floor` holds a lower one to be a roll-back.
        rules: In order; the first that matches decides.
        not_after: When it ends, or None.
        digest: SHA-256 of the document's bytes as loaded, 32 bytes.
    """

    id: str
    serial: int
    rules: tuple[Rule, ...]
    not_after: datetime | None
    digest: bytes


def claims_of(policy: Policy) -> frozenset[str]:
    """Return the dot path of every claim that a policy speaks of."""
    pending: list[Condition | Combinator] = [rule.release for rule in policy.rules]
    found = set()
    while pending:
        term = pending.pop()
        if isinstance(term, Condition):
            found.add(term.claim)
        else:
            pending.extend(term.terms)
    return frozenset(found)


def load_policy(data: bytes, *, where: str) -> Policy:
    """Load a policy.

    Args:
        data: The document, UTF-8 JSON.
        where: What is being read, for the message.

    Raises:
        FormatError: ``malformed``, it is no policy; the message holds the JSON pointer of the fault.
    """
    if len(data) > MAX_POLICY_BYTES:
        raise FormatError(
            f"{where}: expected a policy of at most {MAX_POLICY_BYTES} bytes, found {len(data)}"
        )
    at = Pointer(where)
    fields = at.members(
        strict_json.loads(data, where=where),
        required=("version", "id", "serial", "rules"),
        optional=("description", "not_after"),
    )
    if fields["version"] != GRAMMAR_VERSION:
        raise at.down("version").fault(f'expected "{GRAMMAR_VERSION}"')
    _description(fields.get("description", ""), at.down("description"))
    return Policy(
        id=_identifier(fields["id"], at.down("id")),
        serial=_integer(fields["serial"], at.down("serial"), low=0, high=MAX_SERIAL),
        rules=_rules(fields["rules"], at.down("rules")),
        not_after=_time(fields["not_after"], at.down("not_after")) if "not_after" in fields else None,
        digest=hashlib.sha256(data).digest(),
    )


def _rules(value: object, at: Pointer) -> tuple[Rule, ...]:
    rules = at.each(value, _rule, least=0, most=MAX_RULES)
    seen: set[str] = set()
    for number, rule in enumerate(rules):
        if rule.id in seen:
            raise at.down(number).down("id").fault(f"a second rule is called {rule.id}")
        seen.add(rule.id)
    return rules


def _rule(value: object, at: Pointer) -> Rule:
    fields = at.members(
        value,
        required=("id", "keys", "operations", "algorithms", "release"),
        optional=("lease_seconds", "v1"),
    )
    v1 = fields.get("v1", False)
    if not isinstance(v1, bool):
        raise at.down("v1").fault(f"expected true or false, found {type(v1).__name__}")
    return Rule(
        id=_identifier(fields["id"], at.down("id")),
        keys=_keys(fields["keys"], at.down("keys")),
        operations=frozenset(
            at.down("operations").each_once(fields["operations"], _one_of(Operation), most=MAX_RULES)
        ),
        algorithms=at.down("algorithms").each_once(
            fields["algorithms"], _one_of(WrapAlgorithm), most=MAX_RULES
        ),
        lease_seconds=_integer(
            fields.get("lease_seconds", LEASE_SECONDS),
            at.down("lease_seconds"),
            low=MIN_LEASE_SECONDS,
            high=MAX_LEASE_SECONDS,
        ),
        v1=v1,
        release=_combinator(fields["release"], at.down("release"), nesting=1),
    )


def _keys(value: object, at: Pointer) -> frozenset[KeyName] | None:
    if value == ["*"]:
        return None
    return frozenset(at.each_once(value, _key_name, most=MAX_RULES))


def _key_name(value: object, at: Pointer) -> KeyName:
    try:
        return parse_key_name(value, where=at.place)
    except FormatError as error:
        raise FormatError(str(error)) from error  # a fault of the document, whatever its kind


def _one_of(kind: type[_E]) -> Callable[[object, Pointer], _E]:
    names = {member.value: member for member in kind}

    def read(value: object, at: Pointer) -> _E:
        if not isinstance(value, str) or value not in names:
            raise at.fault(f"expected one of {', '.join(names)}")
        return names[value]

    return read


def _combinator(value: object, at: Pointer, *, nesting: int) -> Combinator:
    if not isinstance(value, dict) or len(value) != 1 or next(iter(value)) not in ("anyOf", "allOf"):
        raise at.fault("expected an object with exactly one of anyOf, allOf")
    if nesting > MAX_NESTING:
        raise at.fault(f"combinators are nested deeper than {MAX_NESTING}")
    name, terms = next(iter(value.items()))

    def term(entry: object, here: Pointer) -> Condition | Combinator:
        if isinstance(entry, dict) and "claim" in entry:
            return _condition(entry, here)
        return _combinator(entry, here, nesting=nesting + 1)

    return Combinator(
        quantifier=Quantifier(name), terms=at.down(name).each(terms, term, least=0, most=MAX_RULES)
    )


def _condition(value: dict[str, object], at: Pointer) -> Condition:
    operators = tuple(operator.value for operator in Operator)
    at.members(value, required=("claim",), optional=operators)
    claim = value["claim"]
    if not isinstance(claim, str) or not _CLAIM.fullmatch(claim):
        raise at.down("claim").fault(f"expected a dot path whose group is one of {', '.join(CLAIM_GROUPS)}")
    names = [name for name in value if name != "claim"]
    if len(names) != 1:
        raise at.fault(f"expected exactly one operator, found {len(names)}")
    operator = Operator(names[0])
    return Condition(
        claim=claim, operator=operator, value=_OPERAND[operator](value[names[0]], at.down(names[0]))
    )


def _scalar(value: object, at: Pointer) -> Scalar:
    if not isinstance(value, bool | int | float | str):
        raise at.fault(f"expected a string, number or boolean, found {type(value).__name__}")
    return value


def _number(value: object, at: Pointer) -> Scalar:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise at.fault(f"expected a number, found {type(value).__name__}")
    return _scalar(value, at)


def _boolean(value: object, at: Pointer) -> Scalar:
    if not isinstance(value, bool):
        raise at.fault(f"expected true or false, found {type(value).__name__}")
    return value


def _scalars(value: object, at: Pointer) -> tuple[Scalar, ...]:
    return at.each(value, _scalar, least=0, most=MAX_RULES)


_OPERAND: Final[dict[Operator, Callable[[object, Pointer], Scalar | tuple[Scalar, ...]]]] = {
    Operator.EQUALS: _scalar,
    Operator.NOT_EQUALS: _scalar,
    Operator.LESS: _number,
    Operator.LESS_OR_EQUALS: _number,
    Operator.GREATER: _number,
    Operator.GREATER_OR_EQUALS: _number,
    Operator.EXISTS: _boolean,
    Operator.IN: _scalars,
}


def _identifier(value: object, at: Pointer) -> str:
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise at.fault("expected 1 to 64 printable ASCII characters without space")
    return value


def _integer(value: object, at: Pointer, *, low: int, high: int) -> int:
    if type(value) is not int or not low <= value <= high:  # a boolean is an int to isinstance
        raise at.fault(f"expected an integer of {low} to {high}")
    return value


def _time(value: object, at: Pointer) -> datetime:
    if isinstance(value, str) and _UTC_TIME.fullmatch(value):
        try:
            return datetime.strptime(value, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
        except ValueError:
            pass
    raise at.fault("expected an RFC 3339 time in UTC, as 2030-01-31T00:00:00Z")


def _description(value: object, at: Pointer) -> None:
    if not isinstance(value, str) or len(value) > _MAX_DESCRIPTION:
        raise at.fault(f"expected text of at most {_MAX_DESCRIPTION} characters")

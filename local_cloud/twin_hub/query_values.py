"""What a query's expressions mean: paths into a twin, comparison, functions, aggregates.

A value that is not there is :data:`UNDEFINED`, which is neither equal nor unequal to anything: a row is
selected only when its condition is exactly true. Values of different types are unequal and have no order.
"""

from __future__ import annotations

import enum
import operator
from statistics import fmean
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from local_cloud.twin_hub.faults import Fault, HubError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from local_cloud.twin_hub.documents import Json

    Expression: TypeAlias = Callable[[Json], object]


class Undefined(enum.Enum):
    """The one value of what is not there."""

    UNDEFINED = "undefined"


UNDEFINED: Final[Literal[Undefined.UNDEFINED]] = Undefined.UNDEFINED


class ValueType(enum.Enum):
    """JSON types as the query language tells them apart."""

    BOOLEAN = enum.auto()
    NUMBER = enum.auto()
    TEXT = enum.auto()
    NULL = enum.auto()
    OTHER = enum.auto()


def value_type(value: object) -> ValueType:
    """Return a value's type; arrays and objects are ``OTHER``."""
    if isinstance(value, bool):
        return ValueType.BOOLEAN
    if isinstance(value, int | float):
        return ValueType.NUMBER
    if isinstance(value, str):
        return ValueType.TEXT
    return ValueType.NULL if value is None else ValueType.OTHER


def constant(value: object) -> Expression:
    """Return the expression that is always ``value``."""
    return lambda _row: value


def path(parts: Sequence[str]) -> Expression:
    """Return the expression that follows ``parts`` into a row."""

    def find(row: Json) -> object:
        value: object = row
        for part in parts:
            if not isinstance(value, dict) or part not in value:
                return UNDEFINED
            value = value[part]
        return value

    return find


def both(operands: Sequence[Expression]) -> Expression:
    """Return the expression that holds if all ``operands`` do."""
    return lambda row: all(operand(row) is True for operand in operands)


def either(operands: Sequence[Expression]) -> Expression:
    """Return the expression that holds if one of ``operands`` does."""
    return lambda row: any(operand(row) is True for operand in operands)


def negation(operand: Expression) -> Expression:
    """Return the opposite; the opposite of undefined is undefined."""

    def evaluate(row: Json) -> object:
        value = operand(row)
        return UNDEFINED if value is UNDEFINED else value is not True

    return evaluate


_ORDERS: Mapping[str, Callable[[Any, Any], bool]] = {  # of two numbers, or two texts
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
COMPARISONS = ("=", "!=", "<>", *_ORDERS)
"""The comparison operators."""


def comparison(sign: str, left: Expression, right: Expression) -> Expression:
    """Return the expression that compares two others with one of :data:`COMPARISONS`."""

    def evaluate(row: Json) -> object:
        a, b = left(row), right(row)
        if a is UNDEFINED or b is UNDEFINED:
            return UNDEFINED
        same_type = value_type(a) is value_type(b)
        if sign == "=":
            return same_type and a == b
        if sign in {"!=", "<>"}:
            return not (same_type and a == b)
        ordered = same_type and value_type(a) in {ValueType.NUMBER, ValueType.TEXT}
        return _ORDERS[sign](a, b) if ordered else UNDEFINED

    return evaluate


def membership(operand: Expression, members: Sequence[object], *, among: bool) -> Expression:
    """Return the expression that holds if a value is, or is not, one of ``members``."""
    known = {(value_type(member), member) for member in members}

    def evaluate(row: Json) -> object:
        value = operand(row)
        if value is UNDEFINED or value_type(value) is ValueType.OTHER:
            return UNDEFINED
        return ((value_type(value), value) in known) is among

    return evaluate


_PREDICATES: Mapping[str, Callable[[object], object]] = {
    "is_defined": lambda value: value is not UNDEFINED,
    "is_null": lambda value: value is None,
    "is_string": lambda value: isinstance(value, str),
    "is_bool": lambda value: isinstance(value, bool),
    "is_number": lambda value: value_type(value) is ValueType.NUMBER,
    "is_object": lambda value: isinstance(value, dict),
    "is_primitive": lambda value: value_type(value) is not ValueType.OTHER,
}
_TEXT_FUNCTIONS: Mapping[str, Callable[[str, str], bool]] = {
    "startswith": str.startswith,
    "starts_with": str.startswith,
    "endswith": str.endswith,
    "ends_with": str.endswith,
    "contains": str.__contains__,
}


def call(name: str, arguments: Sequence[Expression]) -> Expression:
    """Return the expression that calls one of the language's functions.

    Raises:
        HubError: No such function, or another number of arguments.
    """
    predicate, on_text = _PREDICATES.get(name.lower()), _TEXT_FUNCTIONS.get(name.lower())
    if predicate is not None and len(arguments) == 1:
        (argument,) = arguments
        return lambda row: predicate(argument(row))
    if on_text is not None and len(arguments) == 2:  # noqa: PLR2004 - the text and what is looked for
        return _on_text(on_text, *arguments)
    raise bad_query(f"no function {name[:32]} of {len(arguments)} arguments")


def _on_text(function: Callable[[str, str], bool], left: Expression, right: Expression) -> Expression:
    def evaluate(row: Json) -> object:
        a, b = left(row), right(row)
        return function(a, b) if isinstance(a, str) and isinstance(b, str) else UNDEFINED

    return evaluate


_NUMERIC: Mapping[str, Callable[[Sequence[float]], float]] = {
    "sum": sum,
    "min": min,
    "max": max,
    "avg": fmean,
}
AGGREGATES = ("count", *_NUMERIC)
"""Names of the aggregate functions, in lower case."""


def aggregate(name: str, of: Expression, rows: Sequence[Json]) -> object:
    """Return one of :data:`AGGREGATES` over a group of rows; without any number, undefined."""
    if name == "count":
        return len(rows)
    numbers = [
        value for value in map(of, rows) if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    return _NUMERIC[name](numbers) if numbers else UNDEFINED


def bad_query(message: str) -> HubError:
    """Return the error for a query that is not in the language."""
    return HubError(Fault.ARGUMENT_INVALID, f"query: {message}")

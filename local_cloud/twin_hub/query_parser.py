"""Reads the twin query language: the subset of SQL that IoT Hub takes.

::

    query     = SELECT [TOP number] ("*" / column *("," column)) FROM collection
                [WHERE or] [GROUP BY path *("," path)]
    column    = (path / aggregate "(" [path] ")") [AS name]
    or        = and *(OR and)
    and       = not *(AND not)
    not       = NOT not / compared
    compared  = value [sign value / (IN / NIN) "[" literal *("," literal) "]"]
    value     = literal / path / function "(" value *("," value) ")" / "(" or ")"

A name that is no word stands in ``[[ ]]``. The reader descends with the grammar, one method a rule, to a
bounded depth; what it returns is ready to evaluate.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from local_cloud.twin_hub import query_values as values
from local_cloud.twin_hub.query_values import bad_query

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from local_cloud.twin_hub.query_values import Expression

Item = TypeVar("Item")

MAX_QUERY = 8192
"""Characters of a query."""

MAX_NESTING = 32
"""Parentheses, negations and calls inside each other."""

MAX_DIGITS = 32
"""Characters of a number."""

COLLECTIONS = ("devices", "devices.modules")
"""What a query may be from."""

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)
    | (?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
    | (?P<sign><=|>=|!=|<>|[=<>()\[\],*])
    | (?P<name>(?:[A-Za-z_$][\w$\-]*|\[\[[^\]]+\]\])(?:\.(?:[\w$\-]+|\[\[[^\]]+\]\]))*)
    )""",
    re.VERBOSE | re.DOTALL | re.ASCII,
)
_NAME_PART = re.compile(r"\[\[([^\]]+)\]\]|([^.\[\]]+)")
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|.)", re.DOTALL)
_LITERALS = {"true": True, "false": False, "null": None, "undefined": values.UNDEFINED}


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of the result: an expression, or an aggregate over it."""

    name: str
    expression: Expression
    aggregate: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A query that has been read; ``columns`` is ``None`` for whole twins."""

    collection: str
    columns: Sequence[Column] | None
    condition: Expression | None
    groups: Sequence[Expression]
    top: int | None

    @property
    def is_grouped(self) -> bool:
        """Whether a result row stands for many twins."""
        return bool(self.groups) or any(column.aggregate for column in self.columns or ())


def parse_query(text: str) -> Query:
    """Read a query.

    Raises:
        HubError: ``ArgumentInvalid``: not in the language; the message says where.
    """
    if len(text) > MAX_QUERY:
        raise bad_query(f"expected at most {MAX_QUERY} characters, found {len(text)}")
    return _Parser(_tokens(text)).query()


@dataclass(frozen=True, slots=True, kw_only=True)
class _Token:
    kind: str
    text: str


_END = _Token(kind="end", text="the end")


def _tokens(text: str) -> list[_Token]:
    text = text.rstrip().removesuffix(";").rstrip()
    at, tokens = 0, []
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise bad_query(f"not understood at character {at}: {text[at : at + 20]!r}")
        tokens.append(_Token(kind=match.lastgroup, text=match[match.lastgroup]))
        at = match.end()
    return tokens


class _Parser:
    def __init__(self, tokens: Sequence[_Token]) -> None:
        self._tokens = tokens
        self._at = 0
        self._depth = 0

    def query(self) -> Query:
        self._need_word("SELECT")
        top = self._count() if self._word("TOP") else None
        columns = None if self._sign("*") else self._list(self._column)
        self._need_word("FROM")
        collection = self._name().lower()
        if collection not in COLLECTIONS:
            raise bad_query(f"expected one of {', '.join(COLLECTIONS)}, found {collection[:32]!r}")
        condition = self._or() if self._word("WHERE") else None
        groups: Sequence[Expression] = ()
        if self._word("GROUP"):
            self._need_word("BY")
            groups = self._list(self._path)
        if self._next() is not _END:
            raise bad_query(f"unexpected {self._next().text[:32]!r}")
        if groups and columns is None:
            raise bad_query("GROUP BY goes with named columns")
        return Query(collection=collection, columns=columns, condition=condition, groups=groups, top=top)

    def _column(self) -> Column:
        name = self._name()
        if not self._sign("("):
            alias = self._name() if self._word("AS") else _parts(name)[-1]
            return Column(name=alias, expression=values.path(_parts(name)))
        aggregate = name.lower()
        if aggregate not in values.AGGREGATES:
            raise bad_query(f"no aggregate {name[:32]!r}")
        expression = values.constant(values.UNDEFINED)
        if not self._sign(")"):
            expression = self._path()
            self._need_sign(")")
        elif aggregate != "count":
            raise bad_query(f"{aggregate} wants a path")
        alias = self._name() if self._word("AS") else aggregate
        return Column(name=alias, expression=expression, aggregate=aggregate)

    def _or(self) -> Expression:
        operands = [self._and()]
        while self._word("OR"):
            operands.append(self._and())
        return operands[0] if len(operands) == 1 else values.either(operands)

    def _and(self) -> Expression:
        operands = [self._not()]
        while self._word("AND"):
            operands.append(self._not())
        return operands[0] if len(operands) == 1 else values.both(operands)

    def _not(self) -> Expression:
        if self._word("NOT"):
            return values.negation(self._nested(self._not))
        return self._compared()

    def _compared(self) -> Expression:
        left = self._value()
        for sign in values.COMPARISONS:
            if self._sign(sign):
                return values.comparison(sign, left, self._value())
        for word in ("IN", "NIN"):
            if self._word(word):
                self._need_sign("[")
                members = self._list(self._literal)
                self._need_sign("]")
                return values.membership(left, members, among=word == "IN")
        return left

    def _value(self) -> Expression:
        token = self._next()
        if self._sign("("):
            inner = self._nested(self._or)
            self._need_sign(")")
            return inner
        if token.kind in {"number", "text"} or token.text.lower() in _LITERALS:
            return values.constant(self._literal())
        name = self._name()
        if not self._sign("("):
            return values.path(_parts(name))
        arguments = self._nested(lambda: self._list(self._value))
        self._need_sign(")")
        return values.call(name, arguments)

    def _path(self) -> Expression:
        return values.path(_parts(self._name()))

    def _literal(self) -> object:
        token = self._take()
        if token.kind == "number" and len(token.text) <= MAX_DIGITS:
            return int(token.text) if token.text.lstrip("-").isdigit() else float(token.text)
        if token.kind == "text":
            return _ESCAPE.sub(_unescape, token.text[1:-1])
        if token.kind == "name" and token.text.lower() in _LITERALS:
            return _LITERALS[token.text.lower()]
        raise bad_query(f"expected a literal, found {token.text[:32]!r}")

    def _count(self) -> int:
        token = self._take()
        if token.kind != "number" or not token.text.isdigit() or len(token.text) > MAX_DIGITS:
            raise bad_query(f"expected a count, found {token.text[:32]!r}")
        return int(token.text)

    def _list(self, one: Callable[[], Item]) -> list[Item]:
        items = [one()]
        while self._sign(","):
            items.append(one())
        return items

    def _nested(self, rule: Callable[[], Item]) -> Item:
        self._depth += 1
        if self._depth > MAX_NESTING:
            raise bad_query(f"nested deeper than {MAX_NESTING}")
        result = rule()
        self._depth -= 1
        return result

    def _next(self) -> _Token:
        return self._tokens[self._at] if self._at < len(self._tokens) else _END

    def _take(self) -> _Token:
        token = self._next()
        self._at += 1
        return token

    def _word(self, word: str) -> bool:
        return self._is("name", word.lower(), self._next().text.lower())

    def _sign(self, sign: str) -> bool:
        return self._is("sign", sign, self._next().text)

    def _is(self, kind: str, expected: str, found: str) -> bool:
        """Step over the next token if it is the expected one."""
        same = self._next().kind == kind and found == expected
        self._at += same
        return same

    def _need_word(self, word: str) -> None:
        if not self._word(word):
            raise bad_query(f"expected {word}, found {self._next().text[:32]!r}")

    def _need_sign(self, sign: str) -> None:
        if not self._sign(sign):
            raise bad_query(f"expected {sign!r}, found {self._next().text[:32]!r}")

    def _name(self) -> str:
        token = self._take()
        if token.kind != "name":
            raise bad_query(f"expected a name, found {token.text[:32]!r}")
        return token.text


def _parts(name: str) -> list[str]:
    parts = [quoted or plain for quoted, plain in _NAME_PART.findall(name)]
    return parts[1:] if len(parts) > 1 and parts[0].lower() == "devices" else parts


def _unescape(match: re.Match[str]) -> str:
    return chr(int(match[1][1:], 16)) if len(match[1]) > 1 else match[1]

"""JSON without the leniency of :mod:`json`: what a careful RFC 8259 reader accepts, and nothing else.

Refused: a byte order mark, invalid UTF-8, lone surrogates, duplicate names, ``NaN`` and ``Infinity`` (by name
or by size, as ``1e999``), nesting deeper than :data:`MAX_DEPTH`, anything after the document.
"""

from __future__ import annotations

import json
import math
import re

from shared.errors import FormatError

MAX_DEPTH = 32
"""Deepest nesting of objects and arrays that is read."""

# Possessive, and content with a string that never closes: hostile quotes and escapes cost linear time.
_TOKEN = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]|NaN|-?Infinity', re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")


def loads(data: bytes | str, *, where: str) -> object:
    """Return the document's value.

    Args:
        data: The document, UTF-8 if bytes.
        where: What is being read, for the message.

    Raises:
        FormatError: It is not a strict JSON document; the message says what was found, and at which offset.
    """
    text = _decode(data, where) if isinstance(data, bytes) else data
    if text.startswith("\ufeff"):
        raise FormatError(f"{where}: expected JSON at character 0, found a byte order mark")
    _check_tokens(text, where)

    def finite(digits: str) -> float:
        number = float(digits)
        if math.isinf(number):
            raise FormatError(f"{where}: holds a number that is out of range")
        return number

    def unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
        found: dict[str, object] = {}
        for name, value in pairs:
            if name in found:
                raise FormatError(
                    f"{where}: expected each name once in an object, found that {name[:64]!a} stands twice"
                )
            found[name] = value
        return found

    try:
        value: object = json.loads(text, parse_float=finite, object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise FormatError(f"{where}: not JSON at character {error.pos}: {error.msg}") from error
    except ValueError as error:  # an integer of more digits than the interpreter converts
        raise FormatError(f"{where}: holds a number that is out of range") from error
    _check_surrogates(value, where)
    return value


def _decode(data: bytes, where: str) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"0x{data[error.start]:02x} ({error.reason})"
        raise FormatError(f"{where}: not UTF-8 at byte {error.start}: found {found}") from error


def _check_tokens(text: str, where: str) -> None:
    """Refuse what nests too deep, and the numbers that Python knows and JSON does not."""
    depth = 0
    for match in _TOKEN.finditer(text):
        mark = match[0]
        if mark in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise FormatError(
                    f"{where}: expected nesting of at most {MAX_DEPTH}, "
                    f"found deeper at character {match.start()}"
                )
        elif mark in "]}":
            depth -= 1
        elif mark[0] != '"':
            raise FormatError(f"{where}: expected JSON at character {match.start()}, found {mark}")


def _check_surrogates(value: object, where: str) -> None:
    """Refuse strings that are no Unicode text: a lone surrogate cannot be written as UTF-8."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, str):
            if not item.isascii() and (lone := _SURROGATE.search(item)):
                found = f"the lone surrogate U+{ord(lone[0]):04X} in a string"
                raise FormatError(f"{where}: expected Unicode text, found {found}")
        elif isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, dict):
            pending.extend(item.keys())
            pending.extend(item.values())

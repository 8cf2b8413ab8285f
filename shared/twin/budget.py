"""How much of a twin's room a section takes, counted as the hub counts it.

The hub counts names and values: UTF-8 bytes of text without control characters, 8 for a number, 4 for a
boolean, nothing for ``null`` and for the braces; its own ``$`` entries are not counted. Half of a surrogate
pair, which JSON can escape and UTF-8 cannot hold, counts as the three bytes that it would take.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from shared.errors import FormatError

DESIRED_BUDGET = 24 * 1024
"""Bytes of desired that are used at most; the rest of the hub's 32 KiB is left to others."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_NUMBER_BYTES = 8
_BOOLEAN_BYTES = 4


def section_size(value: object) -> int:
    """Return a section's size in bytes, as the hub counts it.

    Raises:
        FormatError: It holds something that no twin holds.
    """
    match value:
        case str():
            # Printable ASCII, as most of it is, is as long as it is.
            plain = value.isascii() and value.isprintable()
            return len(value) if plain else _utf8_size(_CONTROL.sub("", value))
        case Mapping():
            return sum(
                _utf8_size(name) + section_size(entry)
                for name, entry in value.items()
                if not name.startswith("$")
            )
        case bool():
            return _BOOLEAN_BYTES
        case int() | float():
            return _NUMBER_BYTES
        case None:
            return 0
        case list():
            return sum(map(section_size, value))
        case _:
            raise FormatError(f"twin: expected JSON values, found {type(value).__name__}")


def _utf8_size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))

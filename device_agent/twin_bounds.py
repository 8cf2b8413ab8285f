"""How large a twin the agent looks at: the hub's own rules, with room to spare.

A hub that keeps its rules never sends more than 32 KiB for a section. One that does not must not make the
agent fill its memory, or recurse without end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from shared.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_SECTION = 64 * 1024
"""Characters of names and text, and eight for every value; twice what the hub allows."""

MAX_DEPTH = 16
"""Objects within objects; the hub allows ten."""

_VALUE_WEIGHT = 8


def check_bounds(document: object, *, where: str) -> None:
    """Look at a document's size, and stop looking where it is too large.

    Raises:
        FormatError: It is larger or deeper than any section of a twin.
    """
    weight = 0
    pending: list[tuple[int, object]] = [(0, document)]
    while pending:
        depth, value = pending.pop()
        if depth > MAX_DEPTH:
            raise FormatError(f"{where}: nested deeper than {MAX_DEPTH}")
        weight += _VALUE_WEIGHT
        children: Iterable[object] = ()
        if isinstance(value, str):
            weight += len(value)
        elif isinstance(value, Mapping):
            weight += sum(len(name) for name in value)
            children = value.values()
        elif isinstance(value, list):
            children = value
        if weight + _VALUE_WEIGHT * len(pending) > MAX_SECTION:
            raise FormatError(f"{where}: larger than {MAX_SECTION} characters")
        pending.extend((depth + 1, child) for child in children)


def is_within_bounds(document: object) -> bool:
    """Say whether :func:`check_bounds` passes it."""
    try:
        check_bounds(document, where="document")
    except FormatError:
        return False
    return True

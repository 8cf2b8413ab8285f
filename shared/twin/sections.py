"""A section of a twin (``tags``, ``desired`` or ``reported``) as a document: patches, and long text in parts.

The hub takes merge patches (RFC 7396) and refuses strings over 4 KB, so a longer text is an object of parts
``{"0": "…", "1": "…"}`` (protocol section 4). Names that begin with ``$`` are the hub's own.

Example:
    >>> parts = split_text("a" * 5000)
    >>> join_parts(apply_patch({}, {"doc": parts})["doc"], where="doc") == "a" * 5000
    True
"""

from __future__ import annotations

from collections.abc import Mapping

from shared.errors import FormatError

PART_LENGTH = 4000
"""Characters in one part; the hub refuses strings over 4,096 bytes."""

MAX_PARTS = 8
"""More would not fit into the hub's 32 KB for a whole section."""


def split_text(text: str) -> str | dict[str, str | None]:
    """Return ``text`` as a patch holds it: itself if it is short, else its parts.

    The parts that a longer predecessor may have left behind are deleted by ``null``, so the value may be
    merged over whatever stands in the twin.

    Raises:
        FormatError: It needs more than :data:`MAX_PARTS` parts.
    """
    if len(text) <= PART_LENGTH:
        return text
    parts = [text[start : start + PART_LENGTH] for start in range(0, len(text), PART_LENGTH)]
    if len(parts) > MAX_PARTS:
        raise FormatError(
            f"twin text: expected at most {MAX_PARTS * PART_LENGTH} characters, found {len(text)}"
        )
    return {str(i): parts[i] if i < len(parts) else None for i in range(MAX_PARTS)}


def join_parts(value: object, *, where: str) -> str:
    """Return the text that a twin holds, whole or in parts.

    Raises:
        FormatError: Neither text nor an object of parts numbered from 0 without a gap.
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, Mapping):
        raise FormatError(f"{where}: expected text or an object of its parts, found {type(value).__name__}")
    names = [str(i) for i in range(len(value))]
    if not value or len(value) > MAX_PARTS or any(name not in value for name in names):
        raise FormatError(f"{where}: expected parts numbered from 0 without a gap, at most {MAX_PARTS}")
    parts = [value[name] for name in names]
    if not all(isinstance(part, str) for part in parts):
        raise FormatError(f"{where}: expected every part to be text")
    return "".join(parts)


def patch_between(current: Mapping[str, object], wanted: Mapping[str, object]) -> dict[str, object]:
    """Return the merge patch (RFC 7396) that turns one section into another; empty if they are equal.

    Args:
        current: What the twin holds; the hub's own ``$`` entries are left alone.
        wanted: What it is to hold.
    """
    patch: dict[str, object] = {
        name: None for name in current if name not in wanted and not name.startswith("$")
    }
    for name, value in wanted.items():
        old = current.get(name)
        if isinstance(old, Mapping) and isinstance(value, Mapping):
            if inner := patch_between(old, value):
                patch[name] = inner
        elif name not in current or old != value or isinstance(old, bool) != isinstance(value, bool):
            patch[name] = value
    return patch


def apply_patch(current: Mapping[str, object], patch: Mapping[str, object]) -> dict[str, object]:
    """Return a section after a merge patch (RFC 7396), as the hub applies it; neither argument is changed."""
    merged = dict(current)
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, Mapping):
            old = merged.get(name)
            merged[name] = apply_patch(old if isinstance(old, Mapping) else {}, value)
        else:
            merged[name] = value
    return merged

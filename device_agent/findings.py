"""What a diagnosis finds, in plain words, and as JSON."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class FoundAs(enum.Enum):
    """How one thing is."""

    OK = "ok"
    WARNING = "warning"
    FAILED = "failed"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Args:
        name: Stable, for machines.
        outcome: How it is; ``skipped`` if it could not be looked at because of something before it.
        text: For people; never a secret.
        hint: What to do about it.
    """

    name: str
    outcome: FoundAs
    text: str
    hint: str | None = None

    def document(self) -> dict[str, object]:
        """Return it as JSON."""
        return {"name": self.name, "outcome": self.outcome.value, "text": self.text, "hint": self.hint}

    def lines(self) -> str:
        """Return it for a terminal."""
        line = f"{self.outcome.value:8} {self.name.replace('_', ' ')}: {self.text}"
        return line if self.hint is None else f"{line}\n{'':8} hint: {self.hint}"


def ok(name: str, text: str) -> Finding:
    """Return that something is as it should be."""
    return Finding(name=name, outcome=FoundAs.OK, text=text)


def warning(name: str, text: str, *, hint: str | None = None) -> Finding:
    """Return that something works, and somebody should look at it."""
    return Finding(name=name, outcome=FoundAs.WARNING, text=text, hint=hint)


def failed(name: str, text: str, *, hint: str | None = None) -> Finding:
    """Return that something does not work."""
    return Finding(name=name, outcome=FoundAs.FAILED, text=text, hint=hint)


def skipped(name: str, text: str) -> Finding:
    """Return that something could not be looked at."""
    return Finding(name=name, outcome=FoundAs.SKIPPED, text=text)

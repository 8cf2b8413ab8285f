"""What a command says: results on standard output, everything else on standard error, and the exit status.

Nothing is printed as it came: what a terminal would obey, and what cannot be written, is escaped.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.errors import (
    EdbError,
    FormatError,
    KeyUnavailable,
    PolicyDenied,
    SettingsError,
    VerificationError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DONE, FAILED, USAGE, REFUSED, INTERRUPTED = 0, 1, 2, 3, 130


class UsageError(EdbError):
    """The command line asks for something that cannot be."""

    default_code = "usage"


def exit_status(error: EdbError) -> int:
    """Return 2 for a wrong command line, 3 for what verification or policy refused, 1 for everything else."""
    if isinstance(error, UsageError | SettingsError):
        return USAGE
    return REFUSED if isinstance(error, VerificationError | PolicyDenied | KeyUnavailable) else FAILED


@dataclass(frozen=True, slots=True)
class Messages:
    """What a program says beside its results, on standard error.

    Args:
        program: Its name, which every message begins with.
    """

    program: str

    def report(self, error: EdbError) -> None:
        """Write an error and its hint; of settings, each problem on a line of its own."""
        *others, last = error.problems if isinstance(error, SettingsError) else [str(error)]
        for message in others:
            self.report_error(message)
        self.report_error(last, error.hint)

    def report_error(self, message: str, hint: str | None = None) -> None:
        """Write ``PROGRAM: error: …``, and the hint on a line of its own."""
        self.say(f"error: {message}", hint)

    def say(self, message: str, hint: str | None = None) -> None:
        """Write ``PROGRAM: …``, and the hint on a line of its own."""
        sys.stderr.write(f"{self.program}: {printable(message)}\n")
        if hint is not None:
            sys.stderr.write(f"hint: {printable(hint)}\n")

    def warn(self, message: str) -> None:
        """Write ``PROGRAM: warning: …``."""
        self.say(f"warning: {message}")


def print_line(text: str) -> None:
    """Write one line to standard output."""
    sys.stdout.write(f"{printable(text)}\n")


def print_json(document: Mapping[str, object]) -> None:
    """Write one JSON document to standard output."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def print_failure(error: EdbError) -> None:
    """Write the JSON document of a command that did not succeed."""
    results = {FAILED: "failed", USAGE: "usage", REFUSED: "refused"}
    result = "malformed" if isinstance(error, FormatError) else results[exit_status(error)]
    document: dict[str, object] = {
        "result": result,
        "code": error.code,
        "message": str(error),
        "hint": error.hint,
    }
    if isinstance(error, SettingsError):
        document["problems"] = error.problems
    print_json(document)


def print_fields(fields: Mapping[str, object]) -> None:
    """Write one ``name  value`` line for each field, the values in one column."""
    width = max(map(len, fields))
    for name, value in fields.items():
        print_line(f"  {name:<{width}}  {value}")


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write a table with right-aligned numbers."""
    cells = [list(head), *([printable(str(value)) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    numeric = [all(isinstance(row[column], int) for row in rows) for column in range(len(head))]
    for row in cells:
        aligned = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        print_line("  " + "  ".join(aligned).rstrip())


def printable(text: str) -> str:
    """Return ``text`` with what a terminal would obey, and what cannot be written, escaped."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )

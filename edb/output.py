"""What the command says, under its own name: tables that are drawn on a terminal and plain in a pipe."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from shared.command_line import output
from shared.command_line.output import Messages, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table
    from rich.text import Text

MESSAGES = Messages("edb")

NOTHING = "-"
"""Stands in a table where there is no value."""

_STYLES = {
    **dict.fromkeys(("released", "allowed", "acknowledged", "installed", "live", "ok"), "green"),
    **dict.fromkeys(("denied", "quarantined", "error", "failed", "revoked", "deleted"), "red"),
    **dict.fromkeys(("over_budget", "stale", "disabled", "waiting"), "yellow"),
}


def on_terminal() -> bool:
    """Return whether results go to a terminal that can draw."""
    return sys.stdout.isatty() and os.environ.get("TERM") != "dumb"


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Write a table, or the line ``empty`` if it has no rows; None stands as ``-``."""
    cells = [[NOTHING if value is None else value for value in row] for row in rows]
    if not cells:
        output.print_line(empty)
    elif on_terminal():
        from rich.console import Console  # noqa: PLC0415 - slow to import, and only drawn with

        Console().print(drawn_table(head, cells))
    else:
        output.print_table(head, cells)


def drawn_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    """Return a table to be drawn; the words of outcomes have their colours."""
    from rich import box  # noqa: PLC0415 - as above
    from rich.table import Table  # noqa: PLC0415 - as above

    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    for column, title in enumerate(head):
        numeric = all(isinstance(row[column], int) for row in rows)
        table.add_column(title, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(_cell(value) for value in row))
    return table


def _cell(value: object) -> Text:
    from rich.text import Text  # noqa: PLC0415 - as above

    shown = printable(str(value))
    return Text(shown, style=_STYLES.get(shown, ""))

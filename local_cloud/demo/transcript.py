"""The transcript: every line with the time since the start, readable in a terminal and in a file."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from local_cloud.demo.report import StepRecord

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import TextIO

_INDENT = " " * 11
"""As wide as the time that stands before a line."""


class Transcript:
    """Tells the story line by line and keeps the time.

    Args:
        records: Gets one record for each step, also for the one that fails.
        file: Where to write; standard output if None.
        clock: Seconds from any fixed moment on.
    """

    def __init__(
        self,
        records: list[StepRecord],
        *,
        file: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        # Lines are not wrapped: a log viewer or a terminal does that better, and tests read whole lines.
        self._console = Console(file=file, highlight=False, markup=False, soft_wrap=True)
        self._records = records
        self._clock = clock
        self._start = clock()

    @property
    def elapsed(self) -> float:
        """Seconds since the start."""
        return self._clock() - self._start

    @contextlib.contextmanager
    def step(self, number: int, total: int, name: str) -> Iterator[None]:
        """Frame a step: its title before, its record and time after, whatever happens inside."""
        begun = self._clock()
        ok = False
        self._line(f"[{number}/{total}] {name}", style="bold")
        try:
            yield
            ok = True
        finally:
            seconds = self._clock() - begun
            self._records.append(StepRecord(name=name, seconds=seconds, ok=ok))
            if ok:
                self._line(f"      done in {seconds:.2f} s", style="green")
            else:
                self._line(f"      FAILED after {seconds:.2f} s", style="bold red")

    def tell(self, text: str) -> None:
        """Write what just happened, with the time."""
        self._line(f"      {text}")

    def plain(self, text: str = "", *, style: str | None = None) -> None:
        """Write a line as it is."""
        self._console.print(text, style=style)

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Write a small table, indented to stand under a line."""
        table = Table(box=None, pad_edge=False, header_style="dim")
        for column in columns:
            table.add_column(column, no_wrap=True)
        for row in rows:
            table.add_row(*row)
        # Rendered wide enough for its longest row, then indented: a narrow terminal cuts nothing.
        console = Console(width=240, highlight=False, markup=False, color_system=None)
        with console.capture() as captured:
            console.print(table)
        for line in captured.get().splitlines():
            self._console.print(f"{_INDENT}      {line.rstrip()}")

    def _line(self, text: str, *, style: str | None = None) -> None:
        self._console.print(f"{self.elapsed:7.2f} s  {text}", style=style)

"""Wait until every device that a class key was released to has acknowledged.

It only reads: interrupted, it changes nothing, and ``edb keys show KEY_NAME --wait`` goes on with it. Live on
a terminal, a line for each change in a pipe, a JSON line for each change with ``--json``.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from edb.acknowledgement import Goal, Progress, progress_of
from edb.answers import ClassKey, Device
from edb.output import MESSAGES, NOTHING, drawn_table, on_terminal
from shared.command_line.output import DONE, FAILED, print_line
from shared.errors import TransportError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from rich.console import ConsoleRenderable, Group

    from edb.key_service import KeyService
    from shared.types import KeyName

INTERVAL_SECONDS = 2.0
"""Between two looks at the fleet."""

_MOST_ROWS = 30
_HEAD = ("device", "stage", "version", "detail")


class Show(Protocol):
    """Shows how far the devices are."""

    def __call__(self, progress: Progress, fault: str | None) -> None:
        """Show it.

        Args:
            progress: As of now.
            fault: Why the last look failed, if it did.
        """
        ...


def wait_for_devices(service: KeyService, name: KeyName, options: argparse.Namespace) -> int:
    """Wait for a class key's newest version and floor, show it, and return the exit status."""
    goal = Goal.of(ClassKey.read(service.key(name)))
    with showing(lambda: _goal_text(goal), as_json=options.json) as shown:
        progress = watch(lambda: look(service, goal), shown, timeout=options.timeout)
    _finish(goal, progress, as_json=options.json, timeout=options.timeout)
    return DONE if progress.is_complete else FAILED


def look(service: KeyService, goal: Goal) -> Progress:
    """Ask how far the devices are."""
    # A class key without a version to hold stands in no release any more: then all devices are asked for.
    key = goal.key_name if goal.version is not None else None
    return progress_of(goal, (Device.read(entry) for entry in service.devices(key=key)))


def watch(
    look: Callable[[], Progress],
    show: Show,
    *,
    timeout: float,
    clock: Callable[[], float] = time.monotonic,
    pause: Callable[[float], None] = time.sleep,
) -> Progress:
    """Look until all have acknowledged, or the time is over; a look that fails is made again.

    Args:
        look: Asks how far the devices are.
        show: Is told after every look.
        timeout: Seconds at most.
        clock: Seconds that go forward.
        pause: Waits for seconds.

    Returns:
        What was seen last.

    Raises:
        TransportError: No look succeeded at all.
    """
    deadline = clock() + timeout
    progress: Progress | None = None
    while True:
        try:
            progress = look()
        except TransportError as error:
            if clock() >= deadline and progress is None:
                raise
            show(progress if progress is not None else Progress({}), str(error))
        else:
            show(progress, None)
            if progress.is_complete:
                return progress
        if progress is not None and clock() >= deadline:
            return progress
        pause(INTERVAL_SECONDS)


def showing(title: Callable[[], str], *, as_json: bool) -> AbstractContextManager[Show]:
    """Return what shows how far the devices are, as long as it is entered.

    Args:
        title: Says what they are to come to.
        as_json: Whether each change is a JSON line.
    """
    if as_json:
        return _json_lines()
    return _live(title) if on_terminal() else _lines()


@contextmanager
def _live(title: Callable[[], str]) -> Iterator[Show]:
    from rich.console import Console  # noqa: PLC0415 - slow to import, and only drawn with
    from rich.live import Live  # noqa: PLC0415 - as above

    with Live(console=Console(), auto_refresh=False) as live:

        def show(progress: Progress, fault: str | None) -> None:
            live.update(_drawn(title(), progress, fault), refresh=True)

        yield show


def _drawn(title: str, progress: Progress, fault: str | None) -> Group:
    from rich.console import Group  # noqa: PLC0415 - as above
    from rich.progress_bar import ProgressBar  # noqa: PLC0415 - as above
    from rich.text import Text  # noqa: PLC0415 - as above

    # Those that are not done yet first: of a large fleet, the first ones are shown.
    order = sorted(progress.devices.items(), key=lambda item: item[1].stage.value == "acknowledged")
    rows = [
        (name, each.stage.value, NOTHING if each.version is None else each.version, each.detail or NOTHING)
        for name, each in order[:_MOST_ROWS]
    ]
    total = len(progress.devices)
    parts: list[ConsoleRenderable] = [
        Text(f"{title}: {progress.acknowledged} of {total} devices have acknowledged"),
        ProgressBar(total=max(total, 1), completed=progress.acknowledged, width=60),
        drawn_table(_HEAD, rows),
    ]
    if len(order) > _MOST_ROWS:
        parts.append(Text(f"and {len(order) - _MOST_ROWS} more"))
    if fault is not None:
        parts.append(Text(fault, style="yellow"))
    return Group(*parts)


@contextmanager
def _lines() -> Iterator[Show]:
    known: dict[str, object] = {}

    def show(progress: Progress, fault: str | None) -> None:
        for name, each in _changes(known, progress):
            detail = f" ({each['detail']})" if each["detail"] else ""
            print_line(f"{name}: {each['stage']}{detail}")
        if fault is not None:
            MESSAGES.warn(fault)
        sys.stdout.flush()

    yield show


@contextmanager
def _json_lines() -> Iterator[Show]:
    known: dict[str, object] = {}

    def show(progress: Progress, fault: str | None) -> None:  # noqa: ARG001 - JSON lines tell changes
        for name, each in _changes(known, progress):
            write_event("device", {"device_id": name, **each})

    yield show


def _changes(known: dict[str, object], progress: Progress) -> Iterator[tuple[str, Mapping[str, object]]]:
    """Return what has changed since the last time, and remember it."""
    now: dict[str, Mapping[str, object]] = {
        name: {"stage": each.stage.value, "version": each.version, "detail": each.detail}
        for name, each in progress.devices.items()
    }
    gone = {"stage": "gone", "version": None, "detail": None}
    changed = {name: each for name, each in now.items() if known.get(name) != each}
    changed |= {name: gone for name in known if name not in now}
    known.clear()
    known.update(now)
    yield from changed.items()


def write_event(event: str, fields: Mapping[str, object]) -> None:
    """Write one JSON line."""
    sys.stdout.write(json.dumps({"event": event, **fields}, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def _finish(goal: Goal, progress: Progress, *, as_json: bool, timeout: float) -> None:
    done, total = progress.acknowledged, len(progress.devices)
    if as_json:
        event = "done" if progress.is_complete else "timeout"
        write_event(event, {"key_name": goal.key_name, "acknowledged": done, "devices": total})
    elif not total:
        print_line(f"{_goal_text(goal)}: no device was released this key")
    elif progress.is_complete:
        print_line(f"{_goal_text(goal)}: all {total} devices have acknowledged")
    if not progress.is_complete:
        MESSAGES.report_error(
            f"{_goal_text(goal)}: {total - done} of {total} devices have not acknowledged in {timeout:g} s",
            f"edb keys show {goal.key_name} --wait goes on waiting",
        )


def _goal_text(goal: Goal) -> str:
    if goal.version is None:
        return f"{goal.key_name} withdrawn"
    return f"{goal.key_name} version {goal.version}"

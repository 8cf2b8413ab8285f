"""The demonstration's long-running processes, each under a minder of its own.

The state folder's lock says whether any is running: the demonstration takes the lock, every minder inherits
it, and the kernel lets go of it with the last of them, however they end. ``run/standing.json`` says whom to
tell to end: the demonstration while it runs, and what it left standing afterwards.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from local_cloud.demo.minder import KEEP, PATIENCE_SECONDS, Order
from local_cloud.demo.waiting import until
from local_cloud.files import write_atomically
from shared.errors import EdbError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

STOP_SECONDS = 6 * PATIENCE_SECONDS
"""Devices end first, then the cloud, each within a minder's patience; more is a fault."""

_STANDING = "standing.json"

_COMPLAINT = re.compile(r"^(?P<complaint>[a-z-]+: error: .*)$(?:\nhint: (?P<hint>.*)$)?", re.MULTILINE)
_COMPLAINTS = 3
"""What was in the way once may go away; after two more attempts it does not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Standing:
    """A running minder, named so that its process id cannot be mistaken for a later process's.

    Attributes:
        pid: Its process id.
        started: Its start time, in clock ticks since boot.
    """

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> _Standing | None:
        """Return the process as it is now, or None if there is none."""
        try:
            status = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        # proc_pid_stat(5): the name, in parentheses, may hold anything; field 3 is the state, 22 the start.
        fields = status.rpartition(")")[2].split()
        return None if fields[0] == "Z" else cls(pid=pid, started=int(fields[19]))

    @property
    def alive(self) -> bool:
        return _Standing.of(self.pid) == self

    def end(self) -> None:
        """Ask it to end its program and itself; nothing happens if it is gone."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGTERM)

    def wait(self) -> None:
        """Wait until it is gone.

        Raises:
            TransportError: It does not end.
        """
        until(
            lambda: None if self.alive else True,
            what=f"end of the process with id {self.pid}",
            seconds=STOP_SECONDS,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """What runs for one demonstration. The first process started serves the others and is ended last.

    Attributes:
        run_folder: Holds ``NAME.pid`` of each process and ``standing.json``.
        environment: What every process sees.
        lock: File descriptor of the state folder, locked.
    """

    run_folder: Path
    environment: Mapping[str, str]
    lock: int
    _minders: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self, name: str, command: Sequence[str], *, log: Path) -> None:
        """Start a program; it is started again whenever it dies, until :meth:`stop`.

        Args:
            name: Its pid file's name, unique.
            command: Program and arguments.
            log: Gets its output, appended.
        """
        # Nothing of the caller's stays open in it: who reads the demonstration's output must see its end.
        with (self.run_folder / "minders.log").open("ab") as trouble:
            minder = subprocess.Popen(
                [sys.executable, "-m", "local_cloud.demo.minder"],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=trouble,
                env=dict(self.environment),
                bufsize=0,
                pass_fds=[self.lock],
                start_new_session=True,  # Ctrl-C is for the demonstration, which ends the others in order
            )
        self._minders[name] = minder
        order = Order(command=list(command), log=str(log), pid_file=str(self.run_folder / f"{name}.pid"))
        self._write(minder, order.encode())

    def enlist(self) -> None:
        """Have :func:`stop_standing` end this process, which ends all others."""
        _write_standing(self.run_folder, [os.getpid()])

    def keep(self) -> None:
        """Let every process outlive this one, until :func:`stop_standing`."""
        _write_standing(self.run_folder, [minder.pid for minder in self._minders.values()])
        for minder in self._minders.values():
            self._write(minder, KEEP)

    def stop(self) -> None:
        """End every process.

        Raises:
            TransportError: One does not end.
        """
        _stop([found for minder in self._minders.values() if (found := _Standing.of(minder.pid))])
        for minder in self._minders.values():
            minder.wait(STOP_SECONDS)
            if minder.stdin:
                minder.stdin.close()
        self._minders.clear()

    @staticmethod
    def _write(minder: subprocess.Popen[bytes], line: bytes) -> None:
        if minder.stdin:
            with contextlib.suppress(BrokenPipeError):  # killed meanwhile: there is nothing to tell it
                minder.stdin.write(line)


def check_log(log: Path) -> None:
    """Give up on a process that says again and again that it cannot run.

    Raises:
        EdbError: It has complained as often as cannot be an accident; message and hint are its last ones.
    """
    text = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    complaints = list(_COMPLAINT.finditer(text))
    if len(complaints) >= _COMPLAINTS:
        # The last hint may be on its way to the log still.
        hint = next((found["hint"] for found in reversed(complaints) if found["hint"]), None)
        raise EdbError(f"{complaints[-1]['complaint']} (log: {log})", code="cannot_start", hint=hint)


def stop_standing(run_folder: Path) -> None:
    """End a demonstration that runs, or what one has kept; what has ended already is passed over.

    Raises:
        TransportError: A process does not end.
    """
    try:
        listed = json.loads((run_folder / _STANDING).read_text(encoding="ascii"))
    except FileNotFoundError:
        return
    _stop([_Standing(pid=pid, started=started) for pid, started in listed])


def _write_standing(run_folder: Path, pids: Sequence[int]) -> None:
    standing = [found for pid in pids if (found := _Standing.of(pid))]
    listed = [[process.pid, process.started] for process in standing]
    write_atomically(run_folder / _STANDING, json.dumps(listed).encode())


def _stop(standing: Sequence[_Standing]) -> None:
    """End all but the first at once, and then the first, which serves them."""
    for group in (standing[1:], standing[:1]):
        for process in group:
            process.end()
        for process in group:
            process.wait()

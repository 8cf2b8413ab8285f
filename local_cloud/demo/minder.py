"""Keep one program running: start it, start it again when it dies, end it when told or left alone.

One minder stands over each process of the demonstration, as systemd would on a real machine; so whatever is
killed at any moment comes back. It reads one JSON line from standard input, the :class:`Order`, and then only
watches that input: its end says that the demonstration is gone and the program must go too; the line ``keep``
says that the program shall outlive it. SIGTERM and SIGINT end both, always.

The order comes by standard input and not by arguments, so that nobody who looks for a program by its command
line finds its minder.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

FIRST_PAUSE_SECONDS = 0.1
"""Before the program is started again for the first time; doubled while it keeps dying young."""

LONGEST_PAUSE_SECONDS = 5.0

GROWN_UP_SECONDS = 5.0
"""A program that lived as long as this starts with the first pause again."""

PATIENCE_SECONDS = 10.0
"""From SIGTERM until the program is killed; the local cloud needs most of it to end its own processes."""

LOOK_SECONDS = 2.0
"""How often a look is taken whether the folder is still there: who removes it wants nothing to run in it."""

KEEP = b"keep\n"

_PR_SET_PDEATHSIG = 1  # prctl(2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to run.

    Attributes:
        command: The program and its arguments.
        log: Gets its standard output and error, appended.
        pid_file: Holds the process id of its present incarnation.
    """

    command: list[str]
    log: str
    pid_file: str

    def encode(self) -> bytes:
        """Return the order as the line that a minder reads."""
        return json.dumps(asdict(self)).encode() + b"\n"

    @classmethod
    def decode(cls, line: bytes) -> Order:
        """Read what :meth:`encode` wrote."""
        return cls(**json.loads(line))


class _Ended(BaseException):
    """Told to stop; not an :class:`Exception`, so that nothing on the way takes it for a fault."""


def main() -> int:
    """Mind one program until told to stop."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end)
    with contextlib.suppress(_Ended), open(0, "rb", buffering=0) as source:
        _Minder(Order.decode(source.readline()), source.fileno()).run()
    return 0


class _Minder:
    """Runs the program again and again.

    Args:
        order: The program.
        leash: Standard input, whose end stops the program.
    """

    def __init__(self, order: Order, leash: int) -> None:
        self._order = order
        self._leash: int | None = leash

    def run(self) -> NoReturn:
        """Start, wait, pause, start again; only :class:`_Ended` ends it."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            began = time.monotonic()
            child = _start(self._order)
            try:
                self._wait(died=os.pidfd_open(child.pid))
            finally:
                _stop(child)
            if time.monotonic() - began > GROWN_UP_SECONDS:
                pause = FIRST_PAUSE_SECONDS
            self._wait(seconds=pause)
            pause = min(2 * pause, LONGEST_PAUSE_SECONDS)

    def _wait(self, *, died: int | None = None, seconds: float = math.inf) -> None:
        """Wait until the time is over or the program has died, which makes ``died`` readable; close that."""
        deadline = time.monotonic() + seconds
        try:
            while True:
                left = max(0.0, min(deadline - time.monotonic(), LOOK_SECONDS))
                watched = [source for source in (self._leash, died) if source is not None]
                ready, _, _ = select.select(watched, [], [], left)
                if self._leash is not None and self._leash in ready:
                    self._pulled(self._leash)
                elif died in ready or time.monotonic() >= deadline:
                    return
                elif not Path(self._order.pid_file).parent.is_dir():
                    raise _Ended
        finally:
            if died is not None:
                os.close(died)

    def _pulled(self, leash: int) -> None:
        """Read what came in: the word to keep the program, or the end."""
        if os.read(leash, len(KEEP)) != KEEP:
            raise _Ended
        self._leash = None


def _start(order: Order) -> subprocess.Popen[bytes]:
    with Path(order.log).open("ab") as log:
        child = subprocess.Popen(  # noqa: S603 - the demonstration's own programs, named by it
            order.command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            preexec_fn=_die_with_parent,  # noqa: PLW1509 - a minder has one thread
        )
    Path(order.pid_file).write_text(f"{child.pid}\n", encoding="ascii")
    return child


def _die_with_parent() -> None:
    """Have the kernel end the program if its minder is killed; there is nobody left who could."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _stop(child: subprocess.Popen[bytes]) -> None:
    child.terminate()  # does nothing to a child that has ended
    try:
        child.wait(PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _end(_number: int, _frame: object) -> NoReturn:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # once is enough: stopping must not be interrupted
    raise _Ended


if __name__ == "__main__":
    sys.exit(main())

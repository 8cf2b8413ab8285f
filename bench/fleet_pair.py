"""Two processes beside each other against one, and what a process keeps in memory."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fleet_app import Fleet
from measuring import Spread, machine_busy

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

BARE_ROUNDS = 4


def two_over_one(
    folder: Path, count: int, keys: int, *, rounds: int, say: Callable[[str], None]
) -> dict[str, object]:
    """Return how many times the devices a second of wall time two processes serve.

    Each has a fleet of its own. Its seconds are the app's: what it does in the hub's place between two
    messages is left out, alone and in the pair alike. A pair is as fast as the slower of the two would let
    it be. The bare cryptography is done by one and by two in the same way, directly after: that is what the
    machine gives a second process which shares nothing with the first. By CPU time instead of wall time it is
    what two processes cost each other in caches and memory, whatever else ran on their cores meanwhile.
    """
    ours, bare, cpu, others = [], [], [], []
    for number in range(rounds):
        alone, both = _Processes(folder, count, keys, 1).run(), _Processes(folder, count, keys, 2).run()
        ours.append(2 * max(alone.step) / max(both.step))
        bare.append(2 * max(alone.bare) / max(both.bare))
        cpu.append(2 * max(alone.cpu) / max(both.cpu))
        others += [alone.others, both.others]
        say(f"round {number + 1}: {ours[-1]:.2f}, by CPU {cpu[-1]:.2f}, bare cryptography {bare[-1]:.2f}")
    return {
        "two_processes_over_one": Spread.of(ours).document(),
        "two_processes_bare": Spread.of(bare).document(),
        "two_processes_cpu": Spread.of(cpu).document(),
        "two_processes_other_cores": Spread.of(others).document(),
    }


class _Processes:
    """One process or more, ready to serve a fleet each at once; each has a hub's process beside it."""

    def __init__(self, folder: Path, count: int, keys: int, processes: int) -> None:
        self._pipes = [_begin(_serve_fleet, folder, count, keys) for _ in range(processes)]
        self.step: list[float] = []
        self.cpu: list[float] = []
        self.bare: list[float] = []
        self.others = 0.0

    def run(self) -> _Processes:
        self._answers()
        busy, started = machine_busy(), time.perf_counter()
        self.step, self.cpu, taken = self._go()
        self.bare, _, bare_taken = self._go()
        wall = time.perf_counter() - started
        self.others = max(0.0, machine_busy() - busy - taken - bare_taken) / wall
        return self

    def _go(self) -> tuple[list[float], list[float], float]:
        """Let all begin at once; return each app's wall and CPU seconds, and the processes' CPU seconds."""
        for pipe in self._pipes:
            pipe.send("go")
        answers = self._answers()
        wall, cpu, taken = zip(*answers, strict=True)
        return list(wall), list(cpu), sum(taken)

    def _answers(self) -> list[tuple[float, float, float]]:
        return [pipe.recv() for pipe in self._pipes]


def _begin(serve: Callable[..., None], *arguments: object) -> Connection:
    """Start a process that serves a pipe; it ends by itself when the pipe is closed."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    # Not a daemon, which could have no hub's process of its own.
    context.Process(target=serve, args=(theirs, *arguments)).start()
    theirs.close()
    return ours


def _serve_fleet(pipe: Connection, folder: Path, count: int, keys: int) -> None:
    fleet = Fleet(folder, count)
    fleet.provision(range(keys))
    found = fleet.look()

    def bare() -> None:
        for _ in range(BARE_ROUNDS):
            fleet.bare.rate(keys)

    pipe.send((0.0, 0.0, 0.0))
    for act in (lambda: fleet.step(found), bare):
        pipe.recv()
        others, started, hub = fleet.meter.cpu, time.process_time(), fleet.hub.cpu_seconds()
        seconds = fleet.wall(act)
        taken = time.process_time() - started
        hub = fleet.hub.cpu_seconds() - hub
        pipe.send((seconds, taken - (fleet.meter.cpu - others), taken + hub))


def worker_memory(folder: Path, count: int, keys: int) -> dict[str, float]:
    """Return by how many MiB a process has grown after a fifth of so many devices, and after all of them.

    In it are the twins and patches of a thousand devices, which stand in for a hub's, and one audit segment.
    """
    grown: dict[str, float] = _begin(_report_memory, folder, count, keys).recv()
    return grown


def _report_memory(pipe: Connection, folder: Path, count: int, keys: int) -> None:
    fleet = Fleet(folder, count)
    fleet.provision(range(keys))
    fleet.registry.discards = True
    devices, before, grown = fleet.look(), _resident_mib(), {}
    for start, end in ((0, count // 5), (count // 5, count)):
        fleet.step(devices[start:end])
        grown[str(end)] = _resident_mib() - before
    pipe.send(grown)


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20

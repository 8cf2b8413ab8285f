"""Measure contenders in turns: wall and CPU time, what others took of the machine, and the limit beside each.

Machines are shared. So every contender runs once a round, the rounds are shuffled, and directly before and
after each run SHA-256 alone is measured: what the machine gave in that moment is what a run is compared with.
Figures are medians over the rounds, with the smallest and the largest.
"""

from __future__ import annotations

import hashlib
import os
import random
import resource
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import GCM

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

GIGA = 1e9
BLOCK = 1 << 20
_PROBE = 192 << 20  # bytes at most: a tenth of a second
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """Something to be measured.

    Attributes:
        name: Stable, for machines.
        what: For people.
        run: Does it once.
        after: Tidies up; not measured.
        size: Bytes of payload that one run takes.
    """

    name: str
    what: str
    run: Callable[[], object]
    size: int
    after: Callable[[], object] = field(default=lambda: None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One measurement.

    Attributes:
        wall: Seconds.
        cpu: Seconds of all threads and child processes.
        others: Cores that other processes, or other guests of the host, took meanwhile.
        rate: Payload in GB/s.
        sha: SHA-256 alone on one core, directly before and after, GB/s.
        gcm: AES-256-GCM alone on one core, directly before, GB/s.
    """

    wall: float
    cpu: float
    others: float
    rate: float
    sha: float
    gcm: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """A figure over several rounds."""

    median: float
    min: float
    max: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        return cls(median=statistics.median(values), min=min(values), max=max(values))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.min:.2f}-{self.max:.2f})"

    def document(self) -> dict[str, float]:
        return {"median": self.median, "min": self.min, "max": self.max}


def measure_rounds(
    contenders: Sequence[Contender], rounds: int, *, say: Callable[[str], None]
) -> dict[str, list[Run]]:
    """Return each contender's runs, by name; run ``n`` of all of them is round ``n``."""
    order = random.Random(rounds)
    runs: dict[str, list[Run]] = {contender.name: [] for contender in contenders}
    for contender in contenders:  # a run that warms caches and does not count
        contender.run()
        contender.after()
    for number in range(rounds):
        say(f"round {number + 1} of {rounds}")
        for contender in order.sample(contenders, len(contenders)):
            runs[contender.name].append(_measure(contender))
    return runs


def rates(runs: Iterable[Run]) -> Spread:
    return Spread.of([run.rate for run in runs])


def cpu_per_gigabyte(runs: Iterable[Run]) -> Spread:
    return Spread.of([run.cpu / (run.wall * run.rate) for run in runs])


def over(these: Sequence[Run], those: Sequence[Run]) -> Spread:
    """Return how many times faster these runs are, round by round."""
    return Spread.of([this.rate / that.rate for this, that in zip(these, those, strict=True)])


def over_limit(runs: Sequence[Run], *, sha: int, gcm: int, cores: int) -> Spread:
    """Return the share of what the machine's cores could do.

    Args:
        runs: The runs.
        sha: How many SHA-256 streams the work has; each is one core's at most.
        gcm: How many AES-GCM passes.
        cores: How many cores the work may use. Without reading, copying and writing, the work takes the
            longer of its longest stream and of all of it shared among the cores.
    """
    shares = []
    for run in runs:
        streams = [1 / run.sha] * sha + [1 / run.gcm] * gcm
        shares.append(run.rate * max(*streams, sum(streams) / cores))
    return Spread.of(shares)


def _measure(contender: Contender) -> Run:
    probe = min(_PROBE, contender.size)
    gcm, before = probe_gcm(probe), probe_sha(probe)
    machine, own, start = machine_busy(), _own_cpu(), time.perf_counter()
    contender.run()
    wall = time.perf_counter() - start
    cpu = _own_cpu() - own
    others = max(0.0, machine_busy() - machine - cpu) / wall
    contender.after()
    rate = contender.size / wall / GIGA
    return Run(wall=wall, cpu=cpu, others=others, rate=rate, sha=(before + probe_sha(probe)) / 2, gcm=gcm)


def probe_sha(size: int) -> float:
    """Return SHA-256 alone, over one block again and again, in GB/s."""
    block, digest = bytes(BLOCK), hashlib.sha256()
    start = time.perf_counter()
    for _ in range(size // BLOCK):
        digest.update(block)
    return size / (time.perf_counter() - start) / GIGA


def probe_gcm(size: int) -> float:
    """Return AES-256-GCM alone, as :func:`probe_sha`."""
    block, room = memoryview(bytearray(BLOCK)), memoryview(bytearray(BLOCK + 16))
    encryptor = Cipher(AES(bytes(32)), GCM(bytes(12))).encryptor()
    start = time.perf_counter()
    for _ in range(size // BLOCK):
        encryptor.update_into(block, room)
    return size / (time.perf_counter() - start) / GIGA


def _own_cpu() -> float:
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def machine_busy() -> float:
    """Return the seconds that all cores together were not idle."""
    ticks = [int(text) for text in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    return (sum(ticks) - ticks[3] - ticks[4]) / _TICKS  # all but idle and iowait

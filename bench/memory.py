"""Peak memory of a command, over that of an interpreter that has imported the same modules."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from contenders import tool
from measuring import Spread

if TYPE_CHECKING:
    from pathlib import Path

    from contenders import Workshop

# A child begins with its parent's peak, so what is measured is started by a small process.
_STARTER = (
    "import os, sys\n"
    "quiet = [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_RDWR, 0) for fd in (1, 2)]\n"
    "child = os.posix_spawn(sys.argv[1], sys.argv[1:], os.environ, file_actions=quiet)\n"
    "_, status, usage = os.wait4(child, 0)\n"
    "print(usage.ru_maxrss)\n"
    "sys.exit(os.waitstatus_to_exitcode(status))\n"
)
# What `cpk-tool build` and `cpk-tool verify` have imported when they are done.
IMPORTS = "import cpk_tool.main, cpk_tool.commands.build, cpk_tool.commands.verify"
_MEBI_OF_KIBI = 1024


def peak_mib(command: list[str]) -> float:
    """Return the most memory that a command had, in MiB (``ru_maxrss``)."""
    starter = [sys.executable, "-I", "-S", "-c", _STARTER, *command]
    told = subprocess.run(starter, check=True, capture_output=True, text=True)
    return int(told.stdout) / _MEBI_OF_KIBI


def measure_memory(shop: Workshop, size: int, rounds: int) -> dict[str, Spread]:
    """Return peaks in MiB: the interpreter with the imports, build and verify of ``size`` bytes, the excess.

    The payload is sparse; the package is written to disk.
    """
    payload, output = shop.folder / "large", shop.folder / "large.cpk"
    with payload.open("wb") as file:
        file.truncate(size)
    build = shop.cpk_tool_build(payload, output, signed=True)
    commands = {
        "interpreter": [sys.executable, "-c", IMPORTS],
        "build": build,
        "verify": shop.cpk_tool_verify(output),
    }
    peaks: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, command in commands.items():
            peaks[name].append(peak_mib(command))
    _remove(payload, output)
    most = [max(build, verify) for build, verify in zip(peaks["build"], peaks["verify"], strict=True)]
    excess = [peak - own for peak, own in zip(most, peaks["interpreter"], strict=True)]
    return {name: Spread.of(values) for name, values in {**peaks, "excess": excess}.items()}


def measure_start(rounds: int) -> Spread:
    """Return how many times longer ``cpk-tool --version`` takes than an interpreter that does nothing."""
    ratios = []
    for _ in range(rounds):
        ours = _seconds([tool("cpk-tool"), "--version"])
        ratios.append(ours / _seconds([sys.executable, "-c", "pass"]))
    return Spread.of(ratios)


def _seconds(command: list[str]) -> float:
    before = os.times().elapsed
    for _ in range(5):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return os.times().elapsed - before


def _remove(*paths: Path) -> None:
    for path in paths:
        path.unlink(missing_ok=True)

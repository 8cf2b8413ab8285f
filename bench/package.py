"""Measure building, verifying and installing packages beside age, openssl and the machine's own limits.

    make bench
    python bench/package.py --json docs/performance/package.json --plot docs/performance/package.png \
        --markdown docs/performance.md

Everything is measured in one run, in turns, in some minutes: --size and --rounds take longer and spread less.
Needs ``age`` and ``openssl`` (apt-get install age openssl),
about eight times the payload's size of free disk, and for the memory part as much as ``--memory-size`` says.

What "limit" means: the work's SHA-256 streams and AES-GCM passes at the rates they have alone, directly
before and after the run; one stream is one core's at most, and all of them share the cores. Reading, copying
and writing are not in it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import cryptography
from contenders import Workshop, all_contenders, tool
from cryptography.hazmat.backends.openssl import backend
from measuring import Contender, Run, Spread, cpu_per_gigabyte, measure_rounds, over, over_limit, rates
from memory import IMPORTS, measure_memory, measure_start
from tables import write

if TYPE_CHECKING:
    from collections.abc import Mapping

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_WORK = {  # SHA-256 streams, AES-GCM passes, threads
    "build_1_thread": (1, 1, 1),
    "build": (1, 1, 2),
    "build_signed": (2, 1, 3),
    "build_recommended": (1, 1, 2),
    "verify_1_thread": (1, 1, 1),
    "verify": (1, 1, 2),
    "verify_signed": (2, 1, 3),
    "verify_recommended": (1, 1, 2),
    "install_1_thread": (1, 2, 1),
    "install": (1, 2, 2),
    "install_signed": (2, 2, 3),
    "install_recommended": (1, 2, 2),
}


def main() -> None:
    options = _parse()
    with tempfile.TemporaryDirectory(prefix="cpk-bench-", dir=options.folder) as folder:
        shop = Workshop(Path(folder), options.size)
        contenders = all_contenders(shop)
        runs = measure_rounds(contenders, options.rounds, say=_say)
        _say("memory")
        memory = measure_memory(shop, options.memory_size, options.memory_rounds)
        _say("start")
        start = measure_start(options.rounds)
        shop.close()
    ratios = {**_ratios(runs), "start_over_interpreter": start, "rss_over_interpreter_mb": memory["excess"]}
    _print(contenders, runs, ratios, memory)
    document = _document(options, contenders, runs, ratios, memory)
    if options.json is not None:
        options.json.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n")
    if options.plot is not None:
        from plot import draw  # noqa: PLC0415 - matplotlib is slow to import and only needed here

        draw(document, options.plot)
    if options.markdown is not None:
        write(options.markdown, document)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--size", type=_bytes, default=512 << 20, help="payload, as 256M or 1G; by default 512M")
    add("--rounds", type=int, default=7, help="by default 7")
    add("--memory-size", type=_bytes, default=8 << 30, help="payload for the memory part; by default 8G")
    add("--memory-rounds", type=int, default=1, help="by default 1")
    add("--folder", type=Path, help="where to work; by default the temporary folder")
    add("--json", type=Path, metavar="FILE", help="write all figures here")
    add("--plot", type=Path, metavar="FILE", help="draw them here, PNG")
    add("--markdown", type=Path, metavar="FILE", help="fill the tables of this document")
    return parser.parse_args()


def _bytes(text: str) -> int:
    try:
        return int(text[:-1]) * _UNITS[text[-1]] if text[-1:] in _UNITS else int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"expected bytes such as 512M, found {text!r}") from error


def _ratios(runs: Mapping[str, list[Run]]) -> dict[str, Spread]:
    cores = os.cpu_count() or 1
    ratios = {
        "build_over_sha_limit": Spread.of([run.rate / run.sha for run in runs["build"]]),
        "build_signed_over_sha_limit": Spread.of([run.rate / run.sha for run in runs["build_signed"]]),
        "build_recommended_over_sha_limit": Spread.of(
            [run.rate / run.sha for run in runs["build_recommended"]]
        ),
    }
    for name, (sha, gcm, threads) in _WORK.items():
        share = over_limit(runs[name], sha=sha, gcm=gcm, cores=min(threads, cores))
        ratios[f"{name}_over_limit"] = share
    for name in ("build", "build_signed", "build_recommended"):
        ratios[f"{name}_over_age_and_digest"] = over(runs[name], runs["age_and_digest"])
    for name in ("verify", "verify_signed", "verify_recommended"):
        ratios[f"{name}_over_age_open_and_digest"] = over(runs[name], runs["age_open_and_digest"])
    for name in ("build_durable", "build_signed_durable"):
        ratios[f"{name}_over_age_and_sync"] = over(runs[name], runs["age_durable"])
        ratios[f"{name}_over_copy"] = over(runs[name], runs["copy_durable"])
    ratios["install_durable_over_age_and_sync"] = over(runs["install_durable"], runs["age_install_durable"])
    return ratios


def _print(
    contenders: list[Contender],
    runs: Mapping[str, list[Run]],
    ratios: Mapping[str, Spread],
    memory: Mapping[str, Spread],
) -> None:
    print(f"{'':28} {'GB/s':18} {'CPU s/GB':18} {'others, cores':18}")
    for contender in contenders:
        own = runs[contender.name]
        cpu = cpu_per_gigabyte(own)
        others = Spread.of([run.others for run in own])
        print(f"{contender.what:28} {rates(own)!s:18} {cpu!s:18} {others!s:18}")
    print()
    for name, spread in ratios.items():
        print(f"{name:42} {spread}")
    print()
    for name, spread in memory.items():
        print(f"peak MiB, {name:32} {spread}")


def _document(
    options: argparse.Namespace,
    contenders: list[Contender],
    runs: Mapping[str, list[Run]],
    ratios: Mapping[str, Spread],
    memory: Mapping[str, Spread],
) -> dict[str, object]:
    return {
        **{name: spread.document() for name, spread in ratios.items()},
        "machine": _machine(),
        "payload_bytes": options.size,
        "rounds": options.rounds,
        "contenders": {
            contender.name: {
                "what": contender.what,
                "gigabytes_per_second": rates(runs[contender.name]).document(),
                "cpu_seconds_per_gigabyte": cpu_per_gigabyte(runs[contender.name]).document(),
                "wall_seconds": Spread.of([run.wall for run in runs[contender.name]]).document(),
                "other_cores": Spread.of([run.others for run in runs[contender.name]]).document(),
            }
            for contender in contenders
        },
        "memory": {
            "payload_bytes": options.memory_size,
            "interpreter_has_run": IMPORTS,
            "peak_mib": {name: spread.document() for name, spread in memory.items()},
        },
    }


def _machine() -> dict[str, object]:
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = next((line.partition(":")[2].strip() for line in info.splitlines() if "model name" in line), "")
    return {
        "processor": model or platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "cryptography": cryptography.__version__,
        "cryptography_openssl": backend.openssl_version_text(),
        "openssl": _first_line([tool("openssl"), "version"]),
        "age": _first_line([tool("age"), "--version"]),
        "openssl_speed_gb_s": {name: _openssl_speed(name) for name in ("sha256", "aes-256-gcm")},
        "disk_free_bytes": shutil.disk_usage(tempfile.gettempdir()).free,
    }


def _openssl_speed(algorithm: str) -> float:
    """Return what ``openssl speed`` says, in GB/s."""
    command = [tool("openssl"), "speed", "-mr", "-seconds", "1", "-bytes", str(1 << 20), "-evp", algorithm]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    line = next(line for line in said.splitlines() if line.startswith("+F:"))
    return float(line.split(":")[-1]) / 1e9


def _first_line(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()[0]


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr)


if __name__ == "__main__":
    main()

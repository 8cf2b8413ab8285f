"""Measure distribution to a fleet: the function app's own code over a local hub's store with many devices.

    python bench/fleet.py --devices 100000 --json docs/performance/fleet.json \\
        --plot docs/performance/fleet.png --markdown docs/performance.md

CPU time is the function app's, on one core: what hub, vault and audit storage do is counted and left out.
Each device has a chain of three (leaf, issuing CA, root) and an RSA-2048 key; keys are wrapped with
RSA-OAEP-256.

================== ==================================================================================
figure             what
================== ==================================================================================
first distribution nothing is in the twins; one and ten class keys
unchanged          a full pass over the same fleet after all have acknowledged
rotation           one of the class keys has a new version: every device gets a new release
over bare          the same devices' chain validation, key loading and wrapping alone, in a bare loop,
                   before and after each tenth of a distribution: the share of it that is cryptography
reference          the Azure sample's algorithm: every key wrapped for every device in every pass
two processes      two at once, each with a fleet of its own, against one (``fleet_pair.py``)
================== ==================================================================================

What the app does for a twin query, reading a twin and patching it is in it up to the JSON text that goes over
the wire; HTTP, TLS and retries are not.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cryptography
import fleet_tables
from fleet_app import Fleet
from fleet_pair import two_over_one, worker_memory
from measuring import Spread
from reference_sample import ReferenceSample
from tables import write

if TYPE_CHECKING:
    from shared.types import DeviceId

CHUNKS = 10
UNCHANGED_PASSES = 5
KEYS = 10


def main() -> None:
    options = _parse()
    with tempfile.TemporaryDirectory(prefix="fleet-", dir=options.folder) as folder:
        document = measure(Path(folder), options.devices, options.pair, options.rounds)
    _print(document)
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    if options.plot:
        draw(document, options.plot)
    if options.markdown:
        write(options.markdown, document, fleet_tables.BLOCKS)


def measure(folder: Path, count: int, pair: int, rounds: int) -> dict[str, Any]:
    _say("two processes against one")
    document: dict[str, Any] = {"devices": count, "keys": KEYS, "pair_devices": pair}
    document |= two_over_one(folder, pair, KEYS, rounds=rounds, say=_say)
    document["worker_mib"] = worker_memory(folder, pair, KEYS)
    _say(f"seeding {count} devices")
    fleet = Fleet(folder, count)
    names = fleet.provision(range(1))
    first = {"1": _distribute(fleet, 1, "first, 1 key")}
    fleet.hub.forget()
    names += fleet.provision(range(1, KEYS))
    first[str(KEYS)] = _distribute(fleet, KEYS, f"first, {KEYS} keys")
    fleet.hub.acknowledge(dict.fromkeys(names, 1))
    document |= _unchanged(fleet, count)
    fleet.class_keys.rotate(names[0])
    rotation = _distribute(fleet, KEYS, "rotation")
    document |= {
        "devices_per_s_core": {number: each["devices_per_s_core"] for number, each in first.items()},
        "first": first,
        "rotation_devices_per_s_core": rotation["devices_per_s_core"],
        "rotation": rotation,
        "process_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    document |= _beside_the_reference(fleet, document)
    document["machine"] = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "cryptography": cryptography.__version__,
        "system": f"{platform.system()} {platform.release()}",
    }
    return document


def _distribute(fleet: Fleet, keys: int, what: str) -> dict[str, Any]:
    """Make a whole distribution; return devices a second and core, and what it took for each device."""
    fleet.meter.reset()
    unwraps, reads, signatures = fleet.kek.unwraps, fleet.store.reads, fleet.signer.signatures
    found: list[DeviceId] = []
    listing = fleet.cpu(lambda: found.extend(fleet.look()))
    count = len(fleet.devices)
    if len(found) != count:
        raise SystemExit(f"{what}: expected {count} devices to serve, found {len(found)}")
    size = -(-count // CHUNKS)
    rates, bare, began = [], [], time.monotonic()
    for start in range(0, count, size):
        chunk = found[start : start + size]
        before = fleet.bare.rate(keys)
        seconds = fleet.cpu(lambda chunk=chunk: fleet.step(chunk))  # type: ignore[misc] # bound now
        rates.append(len(chunk) / (seconds + listing * len(chunk) / count))
        bare.append((before + fleet.bare.rate(keys)) / 2)
        _say(f"{what}: {start + len(chunk)} of {count}, {rates[-1]:.0f} devices/s, bare {bare[-1]:.0f}")
    seconds = time.monotonic() - began
    calls, wrapped = dict(fleet.meter.calls), fleet.meter.wrapped
    written, read = fleet.meter.bytes_written, fleet.meter.bytes_read
    if fleet.look():
        raise SystemExit(f"{what}: a second pass still finds devices to serve")
    return {
        "seconds": seconds,
        "devices_per_s_core": Spread.of(rates).document(),
        "bare_devices_per_s_core": Spread.of(bare).document(),
        "over_bare": Spread.of([one / other for one, other in zip(rates, bare, strict=True)]).document(),
        "twin_reads": calls["twin reads"] / count,
        "twin_writes": calls["twin writes"] / count,
        "wraps": wrapped / count,
        "signatures": (fleet.signer.signatures - signatures) / count,
        "audit_records": calls["audit records"] / count,
        "unwraps_in_all": fleet.kek.unwraps - unwraps,
        "envelope_reads_in_all": fleet.store.reads - reads,
        "bytes_read": read / count,
        "bytes_written": written / count,
    }


def _unchanged(fleet: Fleet, count: int) -> dict[str, Any]:
    fleet.meter.reset()
    signatures, unwraps = fleet.signer.signatures, fleet.kek.unwraps
    micros = []
    for number in range(UNCHANGED_PASSES):
        gc.collect()
        found: list[DeviceId] = []
        micros.append(fleet.cpu(lambda: found.extend(fleet.look())) * 1e6 / count)  # noqa: B023 - called at once
        if found:
            raise SystemExit(f"an unchanged fleet: {found[0]} is not settled")
        _say(f"unchanged pass {number + 1}: {micros[-1]:.2f} µs a device")
    return {
        "unchanged_us_per_device": Spread.of(micros).document(),
        "unchanged_writes": fleet.meter.calls.get("twin writes", 0),
        "unchanged_wraps": fleet.meter.wrapped,
        "unchanged_reads": fleet.meter.calls.get("twin reads", 0),
        "unchanged_signatures": fleet.signer.signatures - signatures,
        "unchanged_unwraps": fleet.kek.unwraps - unwraps,
        "unchanged_row_bytes": fleet.meter.bytes_read / count / UNCHANGED_PASSES,
    }


def _beside_the_reference(fleet: Fleet, document: dict[str, Any]) -> dict[str, Any]:
    """Let the reference make one pass over a tenth of the fleet, in parts."""
    reference = ReferenceSample(fleet.registry, {f"app-{number}": os.urandom(32) for number in range(KEYS)})
    devices = fleet.devices[: max(CHUNKS, len(fleet.devices) // 10)]
    size = -(-len(devices) // CHUNKS)
    micros = []
    for start in range(0, len(devices), size):
        chunk = devices[start : start + size]
        with fleet.registry.serving(chunk):
            seconds = fleet.cpu(lambda chunk=chunk: reference.run(chunk))  # type: ignore[misc] # bound now
        micros.append(seconds * 1e6 / len(chunk))
    each = Spread.of(micros)
    _say(f"reference: {each} µs a device and pass")
    ours = document["unchanged_us_per_device"]["median"]
    first = document["devices_per_s_core"][str(KEYS)]["median"]
    return {
        "reference_us_per_device": each.document(),
        "over_reference": Spread.of([each_micros / ours for each_micros in micros]).document(),
        "first_over_reference": Spread.of([first * each_micros / 1e6 for each_micros in micros]).document(),
    }


def _print(document: dict[str, Any]) -> None:
    for number, rate in document["devices_per_s_core"].items():
        print(f"first distribution, {number:>2} keys   {Spread(**rate)} devices/s a core")
    print(
        f"rotation                     {Spread(**document['rotation_devices_per_s_core'])} devices/s a core"
    )
    print(f"unchanged                    {Spread(**document['unchanged_us_per_device'])} µs a device")
    print(f"two processes over one       {Spread(**document['two_processes_over_one'])}")
    print(f"  bare cryptography          {Spread(**document['two_processes_bare'])}")
    print(f"reference over ours, a pass  {Spread(**document['over_reference'])}")
    for number, each in document["first"].items():
        print(f"first over bare, {number:>2} keys      {Spread(**each['over_bare'])}")


def draw(document: dict[str, Any], path: Path) -> None:
    """Write a PNG: CPU time for each device, ours and the reference's, on one logarithmic scale."""
    import matplotlib as mpl  # noqa: PLC0415 - slow to import, and only needed here

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - as above

    rates = document["devices_per_s_core"]
    bars = {
        "unchanged pass": document["unchanged_us_per_device"]["median"],
        "first distribution, 1 key": 1e6 / rates["1"]["median"],
        f"first distribution, {KEYS} keys": 1e6 / rates[str(KEYS)]["median"],
        f"rotation of one of {KEYS} keys": 1e6 / document["rotation_devices_per_s_core"]["median"],
        f"reference, every pass, {KEYS} keys": document["reference_us_per_device"]["median"],
    }
    figure, axes = plt.subplots(figsize=(9, 3.4), layout="constrained")
    colors = ["#2b6cb0"] * (len(bars) - 1) + ["#a0aec0"]
    axes.barh(list(bars), list(bars.values()), color=colors)
    for number, value in enumerate(bars.values()):
        axes.text(value * 1.08, number, f"{value:,.1f} µs", va="center", fontsize=8)
    axes.set_xscale("log")
    axes.set_xlim(1, max(bars.values()) * 3)
    axes.invert_yaxis()
    axes.set_xlabel("CPU time of the function app for each device, µs")
    axes.set_title(f"{document['devices']:,} devices, RSA-2048, one core", fontsize=10)
    figure.savefig(path, dpi=120)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--devices", type=int, default=100_000, help="by default 100,000")
    add("--pair", type=int, default=5000, help="devices of each process in the pair; by default 5,000")
    add("--rounds", type=int, default=5, help="of one process and two; by default 5")
    add("--folder", type=Path, help="where to work; by default the temporary folder")
    add("--json", type=Path, metavar="FILE", help="write all figures here")
    add("--plot", type=Path, metavar="FILE", help="draw them here, PNG")
    add("--markdown", type=Path, metavar="FILE", help="fill the tables of this document")
    return parser.parse_args()


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

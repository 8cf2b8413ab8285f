"""Measure distribution to a fleet: the function app's own code over a local hub's store with many devices.

    python bench/fleet.py --devices 100000 --json fleet.json --plot fleet.png

CPU time is the function app's, on one core: what hub and vault do is counted and left out. Each device
has a chain of three (leaf, issuing CA, root) and an RSA-2048 key; keys are wrapped with RSA-OAEP-256.

================== ==================================================================================
figure             what
================== ==================================================================================
first distribution nothing is in the twins; one and ten class keys
unchanged          a full pass over the same fleet after all have acknowledged
rotation           one of the class keys has a new version: every device gets a new release
reference          the Azure sample's algorithm: every key wrapped for every device in every pass
two processes      two at once, each with a fleet of its own, against one
================== ==================================================================================

"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import os
import platform
import resource
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cryptography
from fleet_world import Authority, FleetStore, Meter, MeteredSigner, StoreRegistry, fleet_policy
from measuring import Spread
from reference_sample import ReferenceSample

from functions.audit import AuditLog
from functions.audit_chain import AuditChain
from functions.class_keys import ClassKeys
from functions.distribute import Distributor
from shared.types import Audience, KeyName

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from simulators.audit_segments import MemorySegments
from simulators.vault import MemoryClassKeyStore, SoftwareKek, SoftwareSigner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from multiprocessing.connection import Connection

    from shared.types import DeviceId

BATCH = 100
"""Devices of one queue message."""

CHUNKS = 10
UNCHANGED_PASSES = 5
KEYS = 10


class Fleet:
    """A seeded fleet and the function app over it."""

    def __init__(self, folder: Path, count: int) -> None:
        authority = Authority()
        self.meter = Meter()
        self.devices = FleetStore(folder / f"hub-{os.getpid()}-{count}.db", authority, count)
        self.registry = StoreRegistry(self.devices.hub, self.meter)
        self.store, self.kek, self.signer = MemoryClassKeyStore(), SoftwareKek(), SoftwareSigner()
        self.class_keys = ClassKeys(self.store, self.kek)
        self.distributor = Distributor(
            registry=self.registry,
            class_keys=self.class_keys,
            signer=MeteredSigner(self.signer, self.meter),
            audience=Audience("bench"),
            policy=fleet_policy(authority.root_sha256),
            audit=AuditLog(AuditChain(MemorySegments()), now=lambda: datetime.now(UTC)),
            trust=authority.trust,
            now=lambda: datetime.now(UTC),
            renewed=lambda: self.distributor,
        )

    def provision(self, count: int) -> list[KeyName]:
        names = [KeyName(f"app-{number}") for number in range(count)]
        for name in names:
            self.class_keys.provision(name, bits=256)
        return names

    def look(self) -> list[DeviceId]:
        """List the fleet as a pass does; return who is not settled."""
        one_pass = self.distributor.begin_pass(correlation_id="bench")
        token, found = None, []
        while True:
            page = self.registry.rows(token=token)
            found += one_pass.unsettled(page.rows)
            token = page.next_token
            if token is None:
                return found

    def step(self, devices: Sequence[DeviceId]) -> None:
        """Reconcile devices as the queue's workers do, message by message."""
        for start in range(0, len(devices), BATCH):
            one_pass = self.distributor.begin_pass(correlation_id="bench")
            failed = one_pass.reconcile_all(devices[start : start + BATCH])
            if failed:
                raise SystemExit(f"{failed[0]}: its step failed")

    def cpu(self, act: Callable[[], object]) -> float:
        """Return the function app's CPU seconds."""
        others, started = self.meter.cpu, time.process_time()
        act()
        return time.process_time() - started - (self.meter.cpu - others)


def main() -> None:
    options = _parse()
    with tempfile.TemporaryDirectory(prefix="fleet-", dir=options.folder) as folder:
        document = measure(Path(folder), options.devices, options.pair)
    _print(document)
    if options.json:
        options.json.write_text(json.dumps(document, indent=1) + "\n")
    if options.plot:
        draw(document, options.plot)


def measure(folder: Path, count: int, pair: int) -> dict[str, Any]:
    _say(f"seeding {count} devices")
    fleet = Fleet(folder, count)
    document: dict[str, Any] = {"devices": count, "devices_per_s_core": {}, "per_device": {}}
    names = fleet.provision(1)
    rate, document["per_device"]["first_1"] = _distribute(fleet, "1 key")
    document["devices_per_s_core"]["1"] = rate
    fleet.devices.acknowledge({names[0]: 1})
    names = [*names, *_more_keys(fleet)]
    rate, document["per_device"]["first_10"] = _distribute(fleet, f"{KEYS} keys")
    document["devices_per_s_core"][str(KEYS)] = rate
    fleet.devices.acknowledge(dict.fromkeys(names, 1))
    document |= _unchanged(fleet, count)
    fleet.class_keys.rotate(names[0])
    rate, document["per_device"]["rotation"] = _distribute(fleet, "rotation")
    document["rotation_devices_per_s_core"] = rate
    document["worker_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    document |= _beside_the_reference(fleet, document)
    fleet.devices.close()
    _say("two processes against one")
    document["two_processes_over_one"] = _two_over_one(folder, pair)
    document["worker_mb_alone"] = _worker_memory(folder)
    document["machine"] = {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "cryptography": cryptography.__version__,
        "system": f"{platform.system()} {platform.release()}",
    }
    return document


def _more_keys(fleet: Fleet) -> list[KeyName]:
    names = [KeyName(f"app-{number}") for number in range(1, KEYS)]
    for name in names:
        fleet.class_keys.provision(name, bits=256)
    return names


def _distribute(fleet: Fleet, what: str) -> tuple[dict[str, float], dict[str, float]]:
    """Make a whole distribution; return devices a second and core, and what it took for each device."""
    fleet.meter.reset()
    unwraps, reads, signatures = fleet.kek.unwraps, fleet.store.reads, fleet.signer.signatures
    found: list[DeviceId] = []
    listing = fleet.cpu(lambda: found.extend(fleet.look()))
    count = len(fleet.devices.devices)
    if len(found) != count:
        raise SystemExit(f"{what}: expected {count} devices to serve, found {len(found)}")
    size = -(-count // CHUNKS)
    rates = []
    for start in range(0, count, size):
        chunk = found[start : start + size]
        seconds = fleet.cpu(lambda chunk=chunk: fleet.step(chunk))  # type: ignore[misc] # bound now
        rates.append(len(chunk) / (seconds + listing * len(chunk) / count))
        _say(f"{what}: {start + len(chunk)} of {count}, {rates[-1]:.0f} devices/s")
    if fleet.look():
        raise SystemExit(f"{what}: a second pass still finds devices to serve")
    calls = fleet.meter.calls
    return Spread.of(rates).document(), {
        "twin_reads": calls["twin reads"] / count,
        "twin_writes": calls["twin writes"] / count,
        "signatures": (fleet.signer.signatures - signatures) / count,
        "unwraps_in_all": fleet.kek.unwraps - unwraps,
        "envelope_reads_in_all": fleet.store.reads - reads,
        "bytes_read": fleet.meter.bytes_read / count,
        "bytes_written": fleet.meter.bytes_written / count,
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
        "unchanged_reads": fleet.meter.calls.get("twin reads", 0),
        "unchanged_signatures": fleet.signer.signatures - signatures,
        "unchanged_unwraps": fleet.kek.unwraps - unwraps,
        "unchanged_row_bytes": fleet.meter.bytes_read / count / UNCHANGED_PASSES,
    }


def _beside_the_reference(fleet: Fleet, document: dict[str, Any]) -> dict[str, Any]:
    """Let the reference make one pass over a tenth of the fleet, in parts."""
    reference = ReferenceSample(fleet.registry, {f"app-{number}": os.urandom(32) for number in range(KEYS)})
    devices = fleet.devices.devices[: max(CHUNKS, len(fleet.devices.devices) // 10)]
    size = -(-len(devices) // CHUNKS)
    micros = []
    for start in range(0, len(devices), size):
        chunk = devices[start : start + size]
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


def _two_over_one(folder: Path, count: int) -> dict[str, float]:
    """Return how many times the devices a second of wall time two processes serve, over three rounds."""
    ratios = []
    for number in range(3):
        alone = _rate(folder, count, 1)
        both = _rate(folder, count, 2)
        ratios.append(both / alone)
        _say(f"round {number + 1}: {alone:.0f} and {both:.0f} devices/s")
    return Spread.of(ratios).document()


def _rate(folder: Path, count: int, processes: int) -> float:
    context = multiprocessing.get_context("spawn")
    pipes = []
    for _ in range(processes):
        ours, theirs = context.Pipe()
        context.Process(target=_serve_fleet, args=(theirs, folder, count), daemon=True).start()
        pipes.append(ours)
    for pipe in pipes:
        pipe.recv()
    started = time.monotonic()
    for pipe in pipes:
        pipe.send("go")
    for pipe in pipes:
        pipe.recv()
    return count * processes / (time.monotonic() - started)


def _serve_fleet(pipe: Connection, folder: Path, count: int) -> None:
    fleet = Fleet(folder, count)
    fleet.provision(KEYS)
    pipe.send("ready")
    pipe.recv()
    fleet.step(fleet.look())
    pipe.send("done")
    fleet.devices.close()


def _worker_memory(folder: Path) -> dict[str, float]:
    """Return what a process has resident after a thousand devices, and after five thousand."""
    context = multiprocessing.get_context("spawn")
    found = {}
    for count in (1000, 5000):
        ours, theirs = context.Pipe()
        context.Process(target=_report_memory, args=(theirs, folder, count), daemon=True).start()
        found[str(count)] = ours.recv()
    return found


def _report_memory(pipe: Connection, folder: Path, count: int) -> None:
    fleet = Fleet(folder, count)
    fleet.provision(KEYS)
    before = _resident_mb()
    fleet.step(fleet.look())
    pipe.send(_resident_mb() - before)
    fleet.devices.close()


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _print(document: dict[str, Any]) -> None:
    for number, rate in document["devices_per_s_core"].items():
        print(f"first distribution, {number:>2} keys   {Spread(**rate)} devices/s a core")
    print(
        f"rotation                     {Spread(**document['rotation_devices_per_s_core'])} devices/s a core"
    )
    print(f"unchanged                    {Spread(**document['unchanged_us_per_device'])} µs a device")
    print(f"two processes over one       {Spread(**document['two_processes_over_one'])}")
    print(f"reference over ours, a pass  {Spread(**document['over_reference'])}")
    print(json.dumps(document["per_device"], indent=1))


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
    add("--folder", type=Path, help="where to work; by default the temporary folder")
    add("--json", type=Path, metavar="FILE", help="write all figures here")
    add("--plot", type=Path, metavar="FILE", help="draw them here, PNG")
    return parser.parse_args()


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

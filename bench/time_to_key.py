"""Measure how long a device waits for its class key: from its report to the key in its CPM.

    python bench/time_to_key.py --devices 200 --json time-to-key.json --plot time-to-key.png

Each device is the project's own agent on the unmodified device SDK over MQTT and TLS, and a CPM behind its
Unix socket; the local cloud runs beside them, in processes of its own, and wraps, signs and writes for each.
All devices connect first and hold their report back. Then they report one by one (``p50_ms``, ``p99_ms``),
each when the one before has acknowledged; then the class key is rotated, and all are served at once
(``rotation``).

The clock starts when the agent hands its report to the SDK. It stops when the CPM has applied the release,
and is read once more when the hub has taken the acknowledgement.
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from cpm.clock import ProvenClock
from cpm.custody.port import DeviceKeyType
from cpm.custody.software import SoftwareCustody
from cpm.listener import listen
from cpm.sealed_store import SealedStore
from cpm.server import Server
from cpm.service import Pins, Service
from cpm.state_file import LockedFolder, StateFile
from device_agent.adapters.iot_hub_device import IotHubDevice
from device_agent.certificate import CertificateFile
from device_agent.cpm_client import SocketCpmClient
from device_agent.inbox import Inbox
from device_agent.state import StateFolder as AgentFolder
from device_agent.sync import Agent
from local_cloud.enrolment import Enrolment, enrol, provision
from local_cloud.state import StateFolder as CloudFolder
from shared.certificate_paths import TrustStore
from shared.types import Audience, Secret, parse_device_id

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from multiprocessing.connection import Connection

    from device_agent.twin_link import Notify, Twin
    from shared.wire.cpm_contract import Request

KEY_NAME = "bench"
DEVICES_PER_PROCESS = 50
PATIENCE = 120.0
"""Seconds that a device may take before the measurement is given up."""

_PERCENTILES = 100
_STATUS, _PUBLIC_KEY = "confidential_package_status", "device_public_key"


class Moments:
    """When a device's first report left, and when each version of the key was held and acknowledged."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self.reported = 0.0
        self.held: dict[int, float] = {}
        self.acknowledged: dict[int, float] = {}

    def note(self, times: dict[int, float], version: int) -> None:
        with self._changed:
            times.setdefault(version, time.monotonic())
            self._changed.notify_all()

    def wait(self, version: int, device_id: str) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: version in self.acknowledged, PATIENCE):
                raise TimeoutError(
                    f"{device_id}: no acknowledgement of version {version} in {PATIENCE:.0f} s"
                )


class TimedLink:
    """The agent's link to the hub, which holds the first report back until it is let go, and notes when."""

    def __init__(self, link: IotHubDevice, moments: Moments) -> None:
        self._link = link
        self._moments = moments
        self.ready, self.go = threading.Event(), threading.Event()

    @property
    def device_id(self) -> str:
        return self._link.device_id

    @property
    def connected(self) -> bool:
        return self._link.connected

    def connect(self, notify: Notify) -> None:
        self._link.connect(notify)

    def get_twin(self) -> Twin:
        return self._link.get_twin()

    def patch_reported(self, patch: Mapping[str, Any]) -> None:
        if _PUBLIC_KEY in patch and not self.go.is_set():
            self.ready.set()
            self.go.wait()
            self._moments.reported = time.monotonic()
        self._link.patch_reported(patch)
        keys = (patch.get(_STATUS) or {}).get("keys") or {}
        version = (keys.get(KEY_NAME) or {}).get("ver")  # a patch holds what changed
        if version is not None:
            self._moments.note(self._moments.acknowledged, version)

    def disconnect(self) -> None:
        self._link.disconnect()


class TimedService(Service):
    """A CPM's service that notes when it holds a key."""

    moments: Moments

    def _apply_release(self, request: Request, passed: Any) -> dict[str, object]:  # noqa: ANN401 - private to the base
        reply = super()._apply_release(request, passed)
        for key in reply["keys"].values():  # type: ignore[attr-defined]
            self.moments.note(self.moments.held, key["version"])
        return reply


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloud:
    """The running local cloud."""

    folder: CloudFolder
    process: subprocess.Popen[str]

    @classmethod
    def start(cls, path: Path) -> Cloud:
        command = [sys.executable, "-m", "local_cloud.main", "up", "--state", str(path)]
        with (path.parent / "cloud.log").open("wb") as log:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        line = process.stdout.readline() if process.stdout else ""
        if not line.startswith("ready"):
            raise SystemExit(f"the local cloud did not start; see {path.parent / 'cloud.log'}")
        return cls(folder=CloudFolder(path), process=process)

    @property
    def description(self) -> dict[str, Any]:
        return self.folder.cloud()

    def rotate(self) -> None:
        functions = self.description["functions"]
        httpx.post(
            f"{functions['url']}/api/RotateKey",
            json={"key_name": KEY_NAME},
            headers={"x-functions-key": functions["keys"]["provision"]},
            verify=self.description["hub"]["ca_file"],
            timeout=PATIENCE,
        ).raise_for_status()

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait(PATIENCE)


class Device:
    """A CPM behind its socket, and the agent that serves it."""

    def __init__(self, device_id: str, folder: Path, cloud: CloudFolder) -> None:
        folder.mkdir(mode=0o700)
        self.device_id = parse_device_id(device_id, where="bench")
        self.moments = Moments()
        description = cloud.cloud()
        custody = self._start_cpm(folder, description)
        enrolled = enrol(
            cloud,
            Enrolment(device_id=device_id, tags={"class": "gateway"}, public_key=custody.public_key.spki),
        )
        (folder / "certificate.pem").write_text(enrolled["certificate"])
        link = IotHubDevice.from_connection_string(
            Secret(enrolled["connection_string"].encode()),
            device_id=self.device_id,
            ca_pem=Path(description["hub"]["ca_file"]).read_text(),
        )
        self.link = TimedLink(link, self.moments)
        self._inbox = Inbox()
        self._agent = Agent(
            link=self.link,
            cpm=SocketCpmClient(str(folder / "cpm.sock")),
            certificate=CertificateFile(folder / "certificate.pem"),
            state=AgentFolder(folder / "agent"),
            notify=self._inbox.put,
        )
        threading.Thread(target=self._run, name=device_id, daemon=True).start()

    def wait_until_ready(self) -> None:
        if not self.link.ready.wait(PATIENCE):
            raise TimeoutError(f"{self.device_id}: not connected in {PATIENCE:.0f} s")

    def _start_cpm(self, folder: Path, description: Mapping[str, Any]) -> SoftwareCustody:
        locked = LockedFolder.open(folder / "cpm")
        custody = SoftwareCustody.open(locked.path, key_type=DeviceKeyType.RSA2048)
        audience = Audience(description["audience"])
        service = TimedService(
            state_file=StateFile.open(locked.path, custody, audience=audience, device_id=self.device_id),
            store=SealedStore(locked.path / "packages"),
            custody=custody,
            pins=Pins(
                release_keys=[load_pem_public_key(pem.encode()) for pem in description["release_keys"]],
                trust=TrustStore.from_pem(Path(description["fleet_ca_file"]).read_bytes(), where="bench"),
            ),
            clock=ProvenClock(),
            program_version="bench",
        )
        service.moments = self.moments
        server = Server(listener=listen(folder / "cpm.sock"), service=service, allowed_uids={os.getuid()})
        threading.Thread(target=server.serve, name=f"{self.device_id}-cpm", daemon=True).start()
        return custody

    def _run(self) -> None:
        while True:
            self._agent.advance()
            event = self._inbox.get(self._agent.seconds_to_wait())
            while event is not None:
                self._agent.handle(event)
                event = self._inbox.get(0)


def main() -> None:
    options = _parse()
    with tempfile.TemporaryDirectory(prefix="ttk-") as folder:
        cloud = Cloud.start(Path(folder) / "cloud")
        try:
            document = measure(cloud, Path(folder), options.devices)
        finally:
            cloud.stop()
        print(
            json.dumps(
                {name: document[name] for name in ("n", "p50_ms", "p99_ms", "acknowledged", "rotation")}
            )
        )
        if options.json:
            options.json.write_text(json.dumps(document, indent=1) + "\n")
        if options.plot:
            draw(document, options.plot)


class Worker:
    """A process with some of the devices: the SDK waits with ``select``, which ends at 1,024 descriptors."""

    def __init__(self, folder: Path, cloud: CloudFolder, numbers: Sequence[int]) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.count = len(numbers)
        context.Process(target=_work, args=(theirs, folder, cloud, numbers), daemon=True).start()

    def answer(self) -> Any:  # noqa: ANN401 - whatever the question was
        if not self._pipe.poll(PATIENCE + self.count):
            raise SystemExit("a worker does not answer")
        answer = self._pipe.recv()
        if isinstance(answer, str):
            raise SystemExit(answer)
        return answer

    def ask(self, *question: object) -> None:
        self._pipe.send(question)


def _work(pipe: Connection, folder: Path, cloud: CloudFolder, numbers: Sequence[int]) -> None:
    logging.disable(logging.CRITICAL)
    try:
        devices = [Device(f"bench-{number:04}", folder / f"{number:04}", cloud) for number in numbers]
        for device in devices:
            device.wait_until_ready()
        pipe.send(True)
        while True:
            match pipe.recv():
                case ("serve", number):
                    device = devices[number]
                    device.link.go.set()
                    device.moments.wait(1, device.device_id)
                    moments = device.moments
                    pipe.send((moments.reported, moments.held[1], moments.acknowledged[1]))
                case ("acknowledged", version):
                    for device in devices:
                        device.moments.wait(version, device.device_id)
                    pipe.send([device.moments.acknowledged[version] for device in devices])
    except EOFError:
        pass
    except Exception as error:  # noqa: BLE001 - told to the process that asked
        pipe.send(f"{type(error).__name__}: {error}")
    os._exit(0)  # the SDK's threads wait for a hub that is gone


def measure(cloud: Cloud, folder: Path, count: int) -> dict[str, Any]:
    provision(cloud.folder, KEY_NAME)
    starts = range(0, count, DEVICES_PER_PROCESS)
    workers = [
        Worker(folder, cloud.folder, range(start, min(start + DEVICES_PER_PROCESS, count)))
        for start in starts
    ]
    for worker in workers:
        worker.answer()
    _say(f"{count} devices connected")
    served = []
    for worker in workers:
        for number in range(worker.count):
            worker.ask("serve", number)
            served.append(worker.answer())
    _say(f"{count} devices served")
    rotated = time.monotonic()
    cloud.rotate()
    for worker in workers:
        worker.ask("acknowledged", 2)
    after_rotation = [at - rotated for worker in workers for at in worker.answer()]
    to_key = [held - reported for reported, held, _ in served]
    return {
        **_figures(to_key),
        "acknowledged": _figures([acknowledged - reported for reported, _, acknowledged in served]),
        "rotation": _figures(after_rotation),
        "milliseconds": [round(each * 1000, 1) for each in to_key],
        "machine": {
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            "system": f"{platform.system()} {platform.release()}",
        },
    }


def _figures(seconds: Sequence[float]) -> dict[str, float | int]:
    cuts = statistics.quantiles(seconds, n=_PERCENTILES, method="inclusive")
    return {
        "n": len(seconds),
        "p50_ms": round(cuts[49] * 1000, 1),
        "p99_ms": round(cuts[98] * 1000, 1),
        "max_ms": round(max(seconds) * 1000, 1),
    }


def draw(document: Mapping[str, Any], path: Path) -> None:
    """Write a PNG: which share of the devices held its key after how long."""
    import matplotlib as mpl  # noqa: PLC0415 - slow to import, and only needed here

    mpl.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415 - as above

    times = sorted(document["milliseconds"])
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    axes.step(
        times, [(number + 1) / len(times) for number in range(len(times))], where="post", color="#2b6cb0"
    )
    for name in ("p50_ms", "p99_ms"):
        axes.axvline(document[name], color="#c05621", linestyle="--", linewidth=0.8)
        axes.text(document[name], 0.02, f" {name[:3]} {document[name]:.0f} ms", fontsize=8)
    axes.set(xlabel="milliseconds from report to key in the CPM", ylabel="share of devices", xlim=(0, None))
    axes.set_title(
        f"{document['n']} devices, one by one, on one machine of {document['machine']['cores']} cores"
    )
    figure.savefig(path, dpi=120)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--devices", type=int, default=200, help="by default 200; at least 2")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures here")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw them here, PNG")
    return parser.parse_args()


def _say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

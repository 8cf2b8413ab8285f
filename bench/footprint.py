"""Measure what the device side takes: memory of agent and CPM, start to key reported, size of the wheel.

    python bench/footprint.py
    python bench/footprint.py --rounds 9 --json footprint.json
    python bench/footprint.py --programs /opt/confidential-packages/bin

The programs are installed as on a device: the wheel and its pinned dependencies in a fresh environment of
``--python``, Debian's own unless told otherwise; that needs a package index. They run with the environment of
their units in ``infra/edge``, and as the units say: the CPM with Landlock, the agent with a certificate.

Each round starts a twin hub, a CPM with a new device key, and an agent, all as processes over TLS and a Unix
socket, and waits until the twin holds key and certificate and ``--settle`` seconds more. Then memory is read:

============== ===========================================================================================
``rss``        of each: ``VmRSS``, pages that the kernel has in memory for it, shared ones included
``sum_of_rss`` of both; pages of a file that both have mapped count twice
``together``   the same, but such pages count once, as they lie in memory once. It is an upper bound: of a
               file's pages it takes the sum of both, or all that are mapped. An agent in a container shares
               no files with the CPM; there, the sum counts
============== ===========================================================================================

The time to the report holds the making of an RSA device key at the CPM's first start.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import platform
import re
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from azure.iot.hub import IoTHubRegistryManager
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from local_cloud.certificates import certificate_pem, create_authority, issue_device, issue_server

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).resolve().parents[1]
DEVICE_ID = "edge-01"
EDGE = ROOT / "infra" / "edge"
TARGET_MB = 60
"""Most memory of agent and CPM together, in megabytes of a million bytes."""
DEBIANS_PYTHON = Path("/usr/bin/python3")
WAIT_SECONDS = 120
_KIBI = 1024
_MAPPING = re.compile(
    r"^[0-9a-f]+-[0-9a-f]+ \S+ (?P<offset>[0-9a-f]+) \S+ \d+(?P<file>[^\n]*)\n(?P<sizes>(?:[A-Z]\w*: .*\n)+)",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """One start of the device side; memory in MiB, time in seconds."""

    agent_rss: float
    cpm_rss: float
    together: float
    start_to_key_reported: float
    restart_to_connected: float


def main() -> None:
    options = _parse()
    # As installed: with compiled modules, which the first round, not counted, writes if they are missing.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    with tempfile.TemporaryDirectory(prefix="footprint-") as name:
        wheel = build_wheel(Path(name))
        programs = options.programs or install(wheel, python=options.python, folder=Path(name) / "venv")
        wheel_bytes = wheel.stat().st_size
        measure_round(programs, 0)
        rounds = [measure_round(programs, options.settle) for _ in range(options.rounds)]
        document = {
            "machine": {"python": _version(programs), "cpus": os.cpu_count(), "arch": platform.machine()},
            "rounds": options.rounds,
            "median": {
                name: round(statistics.median(asdict(one)[name] for one in rounds), 2)
                for name in asdict(rounds[0])
            },
            "sum_of_rss_mib": _spread([one.agent_rss + one.cpm_rss for one in rounds]),
            "together_mib": _spread([one.together for one in rounds]),
            "start_to_key_reported_s": _spread([one.start_to_key_reported for one in rounds]),
            "restart_to_connected_s": _spread([one.restart_to_connected for one in rounds]),
            "wheel_bytes": wheel_bytes,
            "target_mib": round(TARGET_MB * 1e6 / _KIBI**2, 1),
        }
    if options.json is not None:
        options.json.write_text(json.dumps(document, indent=2) + "\n")
    for name, value in document.items():
        print(f"{name:24} {value}")


def build_wheel(folder: Path) -> Path:
    """Build the project's wheel into ``folder``."""
    command = ["-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", folder]
    subprocess.run([sys.executable, *map(str, command), str(ROOT)], check=True)
    [wheel] = folder.glob("*.whl")
    return wheel


def install(wheel: Path, *, python: Path, folder: Path) -> Path:
    """Install a wheel as docs/guides/device.md does; return the folder of its programs."""
    subprocess.run([python, "-m", "venv", folder], check=True)
    pip = [folder / "bin" / "pip", "--quiet", "install"]
    hashed = ["--require-hashes", "--no-build-isolation", "-r"]
    subprocess.run([*pip, *hashed, EDGE / "requirements-build.txt"], check=True)
    subprocess.run([*pip, *hashed, EDGE / "requirements.txt"], check=True)
    subprocess.run([*pip, "--no-deps", wheel], check=True)
    return folder / "bin"


def unit_environment(name: str) -> dict[str, str]:
    """Return what a unit sets for its interpreter; what names files of a device is left out."""
    text = (EDGE / name).read_text()
    found = dict(re.findall(r"^Environment=((?:PYTHON|MALLOC_)\w+)=(\S+)$", text, re.MULTILINE))
    return {**os.environ, **found}


def measure_round(programs: Path, settle: float) -> Round:
    """Start everything once and measure it."""
    with tempfile.TemporaryDirectory(prefix="footprint-") as name, ExitStack() as processes:
        device = _Device(Path(name), programs, processes)
        began = time.monotonic()
        cpm = device.start_cpm()
        agent = device.start_agent()
        device.hub.wait_for("device_public_key")
        reported = time.monotonic() - began
        device.get_certificate()
        device.hub.wait_for("device_cert")
        time.sleep(settle)  # what is measured is the memory after a while, not the event
        agent_pages, cpm_pages = _Pages.of(agent.pid), _Pages.of(cpm.pid)
        agent.kill()
        agent.wait()
        began = time.monotonic()
        device.start_agent(wait_for="connected")
        connected = time.monotonic() - began
        return Round(
            agent_rss=agent_pages.rss,
            cpm_rss=cpm_pages.rss,
            together=agent_pages.together(cpm_pages),
            start_to_key_reported=reported,
            restart_to_connected=connected,
        )


class _Hub:
    """A twin hub with one device."""

    def __init__(self, folder: Path, processes: ExitStack) -> None:
        root = create_authority("Footprint Root", days=2)
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(root.certificate_pem)
        service_key = base64.b64encode(secrets.token_bytes(32)).decode()
        (folder / "service.key").write_text(service_key)
        self.device_key = base64.b64encode(secrets.token_bytes(32)).decode()
        for _ in range(50):
            self.address = f"127.{secrets.randbelow(253) + 1}.{secrets.randbelow(255)}.2"
            chain, key = issue_server(root, [self.address])
            (folder / "server.pem").write_bytes(chain)
            (folder / "server.key").write_bytes(key)
            process = _start(
                [
                    *(sys.executable, "-m", "local_cloud.twin_hub", "--state", folder / "hub"),
                    *("--address", self.address, "--server-cert", folder / "server.pem"),
                    *("--server-key", folder / "server.key", "--service-key-file", folder / "service.key"),
                    *("--client-ca", self.ca_file),
                ],
                folder / "hub.log",
                processes,
            )
            line = process.stdout.readline()
            if line.startswith("ready https="):
                break
        else:
            raise SystemExit(f"no twin hub: {(folder / 'hub.log').read_text()}")
        os.environ["REQUESTS_CA_BUNDLE"] = str(self.ca_file)
        port = line.strip().removeprefix("ready https=")
        self._registry = IoTHubRegistryManager.from_connection_string(
            f"HostName={self.address}:{port};SharedAccessKeyName=service;SharedAccessKey={service_key}"
        )
        self._registry.create_device_with_sas(DEVICE_ID, self.device_key, self.device_key, "enabled")

    def wait_for(self, name: str) -> str:
        """Wait until the device has reported a property."""
        deadline = time.monotonic() + WAIT_SECONDS
        while name not in (reported := self._registry.get_twin(DEVICE_ID).properties.reported):
            if time.monotonic() > deadline:
                raise SystemExit(f"{name} was not reported")
            time.sleep(0.02)
        return reported[name]


class _Device:
    """A device: its files, and its two programs as its units start them."""

    def __init__(self, folder: Path, programs: Path, processes: ExitStack) -> None:
        self.hub = _Hub(folder, processes)
        self._folder, self._programs, self._processes = folder, programs, processes

    def start_cpm(self) -> subprocess.Popen[str]:
        folder = self._folder
        release_key = ec.generate_private_key(ec.SECP256R1()).public_key()
        pem = release_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        (folder / "release.pem").write_bytes(pem)
        command = [
            *(self._programs / "cpm", "serve", "--state", folder / "cpm", "--socket", folder / "cpm.sock"),
            *("--audience", "footprint", "--device-id", DEVICE_ID, "--release-key", folder / "release.pem"),
            *("--trust", folder / "ca.pem", "--sandbox", "landlock"),
        ]
        environment = unit_environment("cpm.service")
        process = _start(command, folder / "cpm.log", self._processes, environment)
        if not process.stdout.readline().startswith("ready"):
            raise SystemExit(f"no cpm: {(folder / 'cpm.log').read_text()}")
        return process

    def get_certificate(self) -> None:
        spki = base64.b64decode(self.hub.wait_for("device_public_key"))
        authority = create_authority("Footprint Fleet", days=2)
        certificate = issue_device(authority, DEVICE_ID, spki, days=2)
        (self._folder / "device.new").write_bytes(certificate_pem(certificate))
        (self._folder / "device.new").rename(self._folder / "device.pem")

    def start_agent(self, *, wait_for: str | None = None) -> subprocess.Popen[str]:
        folder, hub = self._folder, self.hub
        connection = folder / "connection"
        connection.write_text(f"HostName={hub.address};DeviceId={DEVICE_ID};SharedAccessKey={hub.device_key}")
        connection.chmod(0o600)
        (folder / "agent.toml").write_text(
            f'connection_string_file = "{connection}"\nca_file = "{hub.ca_file}"\n'
            f'cpm_socket = "{folder}/cpm.sock"\nstate_dir = "{folder}/agent"\n'
            f'certificate_file = "{folder}/device.pem"\nhealth_file = "{folder}/health.json"\n'
        )
        command = [self._programs / "device-agent", "run", "--config", folder / "agent.toml"]
        environment = unit_environment("device-agent.service")
        if wait_for is None:
            return _start(command, folder / "agent.log", self._processes, environment)
        process = self._processes.enter_context(
            subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        )
        self._processes.callback(process.kill)
        for line in process.stderr:
            if json.loads(line)["event"] == wait_for:
                return process
        raise SystemExit(f"the agent ended before {wait_for}")


def _start(
    command: Sequence[object], log: Path, processes: ExitStack, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[str]:
    with log.open("ab") as errors:
        process = subprocess.Popen(
            [str(part) for part in command], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        )
    processes.enter_context(process)
    processes.callback(process.kill)
    return process


def _version(programs: Path) -> str:
    told = subprocess.run([programs / "python", "-V"], capture_output=True, text=True, check=True).stdout
    return told.split()[1]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pages:
    """A process's resident pages in KiB: its own, and by mapping those that lie in memory once for all."""

    own: int
    files: Mapping[tuple[str, str], tuple[int, int]]  # (file, offset): (resident, mapped)

    @classmethod
    def of(cls, pid: int) -> _Pages:
        own = 0
        files = {}
        for block in _MAPPING.finditer(Path(f"/proc/{pid}/smaps").read_text()):
            sizes = {line.split(":")[0]: line.split()[1] for line in block["sizes"].splitlines()}
            rss, anonymous = int(sizes["Rss"]), int(sizes["Anonymous"])
            own += anonymous
            if rss > anonymous:
                files[block["file"].strip(), block["offset"]] = (rss - anonymous, int(sizes["Size"]))
        return cls(own=own, files=files)

    @property
    def rss(self) -> float:
        return (self.own + sum(resident for resident, _ in self.files.values())) / _KIBI

    def together(self, other: _Pages) -> float:
        shared = 0
        for mapping in self.files.keys() | other.files.keys():
            (mine, size), (theirs, other_size) = (pages.files.get(mapping, (0, 0)) for pages in (self, other))
            shared += min(mine + theirs, max(size, other_size))
        return (self.own + other.own + shared) / _KIBI


def _spread(values: list[float]) -> dict[str, float]:
    figures = {"median": statistics.median(values), "min": min(values), "max": max(values)}
    return {name: round(figure, 2) for name, figure in figures.items()}


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--settle", type=float, default=3.0, metavar="SECONDS")
    parser.add_argument(
        "--python", type=Path, default=DEBIANS_PYTHON, metavar="FILE", help="interpreter of the device"
    )
    parser.add_argument(
        "--programs", type=Path, metavar="DIR", help="where they are installed already; installs nothing then"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there")
    return parser.parse_args()


if __name__ == "__main__":
    main()

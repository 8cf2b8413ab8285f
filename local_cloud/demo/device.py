"""A device of the demonstration: a package manager and an agent, two processes that share a socket."""

from __future__ import annotations

import datetime as dt
import json
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import NameOID

from local_cloud.certificates import certificate_pem, create_authority, issue_device
from local_cloud.demo.processes import check_log
from local_cloud.demo.waiting import until
from local_cloud.files import PRIVATE, write_atomically
from shared.errors import EdbError, TransportError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from local_cloud.demo.cloud import Cloud, Twin
    from local_cloud.demo.commands import Commands
    from local_cloud.demo.processes import Processes
    from local_cloud.demo.workspace import Workspace

_CLASS_TAG = "class=gateway"
"""What the release policy asks of a device's tags; even the rogue has it."""

_DAYS = 397


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """A line of the agent's log."""

    name: str
    at: dt.datetime
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device.

    Attributes:
        device_id: As the hub knows it.
        genuine: Whether the fleet CA certifies its key; if not, it makes its own certificate.
        workspace: Where its folder stands.
        processes: Runs its two processes.
        commands: The commands that its owner types.
        cloud: Where it is enrolled.
    """

    device_id: str
    genuine: bool
    workspace: Workspace
    processes: Processes
    commands: Commands
    cloud: Cloud

    @property
    def folder(self) -> Path:
        """Everything that the device has."""
        return self.workspace.devices / self.device_id

    @property
    def socket(self) -> Path:
        """Its package manager's socket."""
        return self.workspace.sockets / f"{self.device_id}.sock"

    @property
    def log_files(self) -> list[Path]:
        """Logs of its two processes."""
        return [self._cpm_log, self._agent_log]

    def start_cpm(self, *, vendor_ca: Path) -> None:
        """Start the package manager, which makes the device key, and wait until it listens.

        Args:
            vendor_ca: Root that it trusts for packages; copied to the device.

        Raises:
            TransportError: It does not come up.
        """
        self.folder.mkdir(mode=0o700)
        trust = self.folder / "trust.pem"
        write_atomically(trust, vendor_ca.read_bytes())
        command = [self.commands.path("cpm"), "serve", "--state", str(self.folder / "cpm")]
        command += ["--socket", str(self.socket), "--trust", str(trust)]
        command += ["--audience", self.cloud.audience, "--device-id", self.device_id]
        for number, pem in enumerate(self.cloud.description["release_keys"]):
            pinned = self.folder / f"release-key-{number}.pem"
            write_atomically(pinned, pem.encode())
            command += ["--release-key", str(pinned)]
        self.processes.start(f"{self.device_id}-cpm", command, log=self._cpm_log)
        until(self._listening, what=f"{self.device_id}: start of its package manager")

    def enrol(self) -> None:
        """Register the device with the hub and give it a certificate over its package manager's key."""
        public_key = self.folder / "public-key.pem"
        pem = self.commands.ask("cpk-tool", "pub-key", "--format", "pem", "--socket", str(self.socket))
        write_atomically(public_key, pem.encode())
        options = ["--tag", _CLASS_TAG, "--state", str(self.cloud.folder)]
        if self.genuine:
            options += ["--public-key", str(public_key)]
        answer = self.commands.ask_json("local-cloud", "enrol", self.device_id, *options)
        connection = self.folder / "connection-string"
        write_atomically(connection, str(answer["connection_string"]).encode(), mode=PRIVATE)
        certificate = str(answer["certificate"]) if self.genuine else self._self_made_certificate(pem)
        write_atomically(self._certificate, certificate.encode())

    def start_agent(self) -> None:
        """Start the agent."""
        settings = {
            "connection_string_file": self.folder / "connection-string",
            "ca_file": self.cloud.ca_file,
            "certificate_file": self._certificate,
            "cpm_socket": self.socket,
            "state_dir": self.folder / "agent",
            "log_level": "INFO",
        }
        # A JSON string is a TOML basic string.
        lines = [f"{name} = {json.dumps(str(value))}\n" for name, value in settings.items()]
        config = self.folder / "agent.toml"
        write_atomically(config, "".join(lines).encode())
        command = [self.commands.path("device-agent"), "run", "--config", str(config)]
        self.processes.start(f"{self.device_id}-agent", command, log=self._agent_log)

    def twin(self) -> Twin:
        """Read its twin."""
        return self.cloud.twin(self.device_id)

    def status(self) -> Mapping[str, Any]:
        """Ask its package manager what it holds."""
        return self.commands.ask_json("cpm", "status", "--json", "--socket", str(self.socket))

    def newest_keys(self) -> dict[str, int]:
        """Return the newest held version of each class key."""
        held = self.status()["keys"]
        return {name: max(entry["version"] for entry in entries) for name, entries in held.items() if entries}

    def install(self, package: Path) -> None:
        """Install a package."""
        self.commands.ask("cpk-tool", "install", "-p", str(package), "--socket", str(self.socket))

    def refuse(self, package: Path) -> str:
        """Try to install a package that must be refused, and return the reason."""
        return self.commands.refusal("cpk-tool", "install", "-p", str(package), "--socket", str(self.socket))

    def run(self, application: str, *arguments: str, stdin: str = "") -> str:
        """Run an installed workload and return what it writes."""
        return self.commands.ask(
            "cpm", "run", application, "--socket", str(self.socket), "--", *arguments, stdin=stdin
        )

    def events(self) -> Iterator[Event]:
        """Yield what the agent has logged, oldest first."""
        if not self._agent_log.exists():
            return
        for line in self._agent_log.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                entry = json.loads(line)
                yield Event(name=entry["event"], at=dt.datetime.fromisoformat(entry["time"]), fields=entry)
            except (ValueError, KeyError, TypeError):
                continue  # a traceback's line, or one that is being written

    @property
    def _cpm_log(self) -> Path:
        return self.folder / "cpm.log"

    @property
    def _agent_log(self) -> Path:
        return self.folder / "agent.log"

    @property
    def _certificate(self) -> Path:
        return self.folder / "certificate.pem"

    def _listening(self) -> bool:
        check_log(self._cpm_log)
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self.socket))
            except OSError as error:
                raise TransportError(f"{self.socket}: {error.strerror}; log: {self._cpm_log}") from error
        return True

    def _self_made_certificate(self, public_key_pem: str) -> str:
        """Certify the device's key under an authority of its own that bears the fleet CA's name."""
        fleet = x509.load_pem_x509_certificate(self.cloud.fleet_ca_file.read_bytes())
        names = fleet.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        if not names:
            raise EdbError(f"{self.cloud.fleet_ca_file}: expected a common name")
        impostor = create_authority(str(names[0].value), days=_DAYS)
        spki = serialization.load_pem_public_key(public_key_pem.encode()).public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        certificate = issue_device(impostor, self.device_id, spki, days=_DAYS)
        return certificate_pem(certificate, impostor.certificate).decode()

"""The agent and the CPM of one device as processes, and what the cloud does for it."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import Twin, TwinProperties
from simulators.releasing_cloud import ReleasingCloud

from shared.twin.documents import desired_patch, parse_public_key, parse_status
from shared.types import DeviceId, WrapAlgorithm

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

DEVICE_ID = DeviceId("edge-01")
DEVICE_KEY = base64.b64encode(b"k" * 32).decode()


class DeviceProcesses:
    """The CPM and the agent of one device, and what the cloud does for it."""

    def __init__(self, hub, folder: Path, device_id: DeviceId = DEVICE_ID) -> None:
        self.hub, self.folder, self.device_id = hub, folder, device_id
        self.cloud = ReleasingCloud()
        self.registry = IoTHubRegistryManager.from_connection_string(hub.service_connection_string)
        self.socket = folder / "cpm.sock"
        self.log_file = folder / "agent.log"
        (folder / "release.pem").write_bytes(self.cloud.release_key_pem())
        self.environment: dict[str, str] = {}
        self.settings: dict[str, str | int | list[str]] = {
            "ca_file": str(hub.ca_file),
            "cpm_socket": str(self.socket),
            "state_dir": str(folder / "agent"),
        }
        self.algorithm: WrapAlgorithm | None = None  # how the cloud wraps; its own choice unless set
        self.cpm: subprocess.Popen | None = None
        self.agent: subprocess.Popen | None = None

    def register_with_key(self) -> None:
        """Make the device known to the hub, and give the agent its connection string."""
        self.registry.create_device_with_sas(self.device_id, DEVICE_KEY, DEVICE_KEY, "enabled")
        file = self.folder / "connection"
        file.write_text(f"HostName={self.hub.address};DeviceId={self.device_id};SharedAccessKey={DEVICE_KEY}")
        file.chmod(0o600)
        self.settings["connection_string_file"] = str(file)

    def write_settings(self) -> Path:
        """Write the agent's settings; JSON's texts, numbers and lists are TOML's too."""
        file = self.folder / "agent.toml"
        file.write_text("".join(f"{name} = {json.dumps(value)}\n" for name, value in self.settings.items()))
        return file

    def start_cpm(self) -> None:
        command = [
            *(Path(sys.executable).with_name("cpm"), "serve", "--state", self.folder / "cpm"),
            *("--socket", self.socket, "--audience", "test", "--device-id", self.device_id),
            *("--release-key", self.folder / "release.pem", "--trust", self.hub.ca_file),
        ]
        with (self.folder / "cpm.log").open("ab") as log:
            self.cpm = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        line = self.cpm.stdout.readline()
        assert line.startswith("ready"), (self.folder / "cpm.log").read_text()

    def command(self, *arguments: str) -> list[str]:
        """Return a command line of ``device-agent`` with the settings of now."""
        program = Path(sys.executable).with_name("device-agent")
        return [str(program), *arguments, "--config", str(self.write_settings())]

    def start_agent(self) -> None:
        with self.log_file.open("ab") as log:
            self.agent = subprocess.Popen(
                self.command("run"), stderr=log, env={**os.environ, **self.environment}
            )

    def ask_agent(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of ``device-agent`` to its end."""
        return subprocess.run(
            self.command(*arguments),
            env={**os.environ, **self.environment},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )

    def kill(self, name: str) -> None:
        """End a process as a power cut would."""
        process = getattr(self, name)
        process.kill()
        process.wait(timeout=30)

    def close(self) -> None:
        for process in (self.agent, self.cpm):
            if process is not None:
                process.kill()
                process.wait(timeout=30)
                if process.stdout is not None:
                    process.stdout.close()

    def reported(self) -> dict:
        return self._twin().properties.reported

    def _twin(self) -> Twin:
        device, _, module = self.device_id.partition("/")
        if module:
            return self.registry.get_module_twin(device, module)
        return self.registry.get_twin(device)

    def desire(self, patch: dict) -> None:
        """Write desired properties."""
        device, _, module = self.device_id.partition("/")
        twin = Twin(properties=TwinProperties(desired=patch))
        if module:
            self.registry.update_module_twin(device, module, twin)
        else:
            self.registry.update_twin(device, twin)

    def status(self):
        with contextlib.suppress(KeyError):
            return parse_status(self.reported())
        return None

    def release(self, sequence: int, versions: dict[str, int]) -> None:
        """Do what the function app does: wrap for the key that the device reports, sign, write desired."""
        twin = self._twin()
        spki = parse_public_key(twin.properties.reported).spki
        cose, wrapped = self.cloud.release(
            spki, sequence=sequence, keys=versions, device_id=self.device_id, algorithm=self.algorithm
        )
        removed = set(twin.properties.desired.get("confidential_package_keys", {})) - set(wrapped)
        patch = desired_patch(wrapped=wrapped, removed=removed, release=cose)
        self.desire(patch)

    def has_installed(self, sequence: int, versions: dict[str, int]) -> bool:
        status = self.status()
        return (
            status is not None
            and status.sequence == sequence
            and {name: key.version for name, key in status.keys.items()} == versions
            and all(key.state == "installed" for key in status.keys.values())
        )

    @staticmethod
    def other_release_key() -> ec.EllipticCurvePrivateKey:
        """Return a release key that nobody pinned."""
        return ReleasingCloud().release_key

    def cpm_public_key(self) -> str:
        """Return the CPM's device key, base64 of its SPKI, as ``cpk-tool`` prints it."""
        program = Path(sys.executable).with_name("cpk-tool")
        command = [program, "pub-key", "--socket", self.socket]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout

    def events(self) -> list[dict]:
        lines = self.log_file.read_text().splitlines()
        return [json.loads(line) for line in lines]

    def logged(self, event: str) -> list[dict]:
        return [line for line in self.events() if line["event"] == event]

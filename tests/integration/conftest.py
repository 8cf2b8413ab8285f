"""A twin hub as a process of its own, with its own certificates, on a loopback address of its own."""

import base64
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from local_cloud.certificates import create_authority, issue_server

READY_SECONDS = 120


class HubProcess:
    """A twin hub that tests start, kill and start again on the same address and state."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = create_authority("Test Root", days=2)
        self.fleet = create_authority("Test Fleet CA", days=2)
        self.ca_file = folder / "ca.pem"
        self.ca_file.write_bytes(self.root.certificate_pem)
        self.client_ca_file = folder / "client-ca.pem"
        self.client_ca_file.write_bytes(self.fleet.certificate_pem)
        self.service_key = base64.b64encode(secrets.token_bytes(32)).decode()
        (folder / "service.key").write_text(self.service_key)
        self.options: list[str] = []
        self.address = ""
        self.https_port = 0
        self._process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def service_connection_string(self) -> str:
        return (
            f"HostName={self.address}:{self.https_port};SharedAccessKeyName=service;"
            f"SharedAccessKey={self.service_key}"
        )

    def start(self, *options: str) -> None:
        """Start it on a loopback address whose port 8883 is free; the first start chooses the address."""
        self.options = list(options)
        for _ in range(50):
            address = self.address or f"127.{random.randint(1, 254)}.{random.randint(0, 254)}.2"
            if self._start(address):
                return
        raise AssertionError(f"no loopback address would do: {self.log()}")

    def _start(self, address: str) -> bool:
        chain, key = issue_server(self.root, [address, "localhost", "hub.test"])
        (self.folder / "server.pem").write_bytes(chain)
        (self.folder / "server.key").write_bytes(key)
        command = [
            *(sys.executable, "-m", "local_cloud.twin_hub", "--state", str(self.folder / "hub")),
            *("--address", address, "--https-port", str(self.https_port)),
            *("--server-cert", str(self.folder / "server.pem")),
            *("--server-key", str(self.folder / "server.key")),
            *("--client-ca", str(self.client_ca_file)),
            *("--service-key-file", str(self.folder / "service.key"), "--hostname", "hub.test"),
            *("--stdin-lifeline", *self.options),
        ]
        with (self.folder / "hub.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line.startswith("ready https="):
            self._reap()
            assert "cannot listen" in self.log(), self.log()
            return False
        self.address, self.https_port = address, int(line.removeprefix("ready https="))
        return True

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        os.kill(self.pid, signal.SIGKILL)
        self._reap()

    def restart(self) -> None:
        """Kill it and start it again."""
        self.kill()
        self.start(*self.options)

    def pause(self) -> None:
        """Keep it from doing anything; its peers see silence."""
        os.kill(self.pid, signal.SIGSTOP)

    def stop(self, number: int | None = None) -> int:
        """Send it a signal, or let go of its lifeline, and return its exit status."""
        assert self._process is not None
        assert self._process.stdin is not None
        if number is None:
            self._process.stdin.close()
        else:
            os.kill(self.pid, number)
        return self._process.wait(timeout=READY_SECONDS)

    def log(self) -> str:
        return (self.folder / "hub.log").read_text()

    def _reap(self) -> None:
        assert self._process is not None
        self._process.wait(timeout=READY_SECONDS)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def close(self) -> None:
        if self._process is not None:
            if self._process.poll() is None:
                self._process.kill()
            self._reap()


@pytest.fixture
def hub_process(tmp_path, monkeypatch):
    """A running twin hub; the service SDK trusts its certificates."""
    folder = tmp_path / "hub-process"
    folder.mkdir()
    hub = HubProcess(folder)
    try:
        hub.start()
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(hub.ca_file))
        yield hub
    finally:
        hub.close()


@pytest.fixture
def eventually():
    """Wait until a condition holds, looking often; fail if it does not within a deadline."""

    def wait(condition, *, seconds=120.0, what="the condition"):
        deadline = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < deadline, f"{what} did not come within {seconds} s"
            time.sleep(0.02)
        return found

    return wait

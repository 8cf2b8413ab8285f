"""A CPM in a process of its own over software custody, with options, and the cloud and vendor it trusts."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from simulators.releasing_cloud import AUDIENCE, DEVICE_ID, NAME, ReleasingCloud, make_vendor

from shared.wire.cpm_channel import CpmConnection, connect

CPM = str(Path(sys.executable).with_name("cpm"))
SECONDS = 60
SCRIPT = b'#!/bin/sh\necho "running $CP_VERSION $*"\ncat\nexit 5\n'


@dataclass
class Cpm:
    """A CPM in a process of its own; may be started, killed and started again."""

    folder: Path
    cloud: ReleasingCloud = field(default_factory=ReleasingCloud)
    vendor: object = field(default_factory=make_vendor)
    options: tuple[str, ...] = ()
    process: subprocess.Popen | None = None

    @property
    def socket(self) -> Path:
        return self.folder / "run" / "cpm.sock"

    @property
    def state(self) -> Path:
        return self.folder / "state"

    def command(self, **replaced: str) -> list[str]:
        (self.folder / "release.pem").write_bytes(self.cloud.release_key_pem())
        (self.folder / "trust.pem").write_bytes(self.vendor.root_pem)
        values = {
            "state": str(self.state),
            "socket": str(self.socket),
            "audience": AUDIENCE,
            "device-id": DEVICE_ID,
            "release-key": str(self.folder / "release.pem"),
            "trust": str(self.folder / "trust.pem"),
            "key-type": "p256",
            **replaced,
        }
        return [CPM, "serve", *[word for name, value in values.items() for word in (f"--{name}", value)]]

    def start(self, *, wrapper: Sequence[str] = (), given: str = "") -> None:
        """Start it, inside a program that reads ``given`` if there is one; return when it is ready."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*wrapper, *self.command(), *self.options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        with self.process.stdin as stdin:
            stdin.write(given)
        assert self.process.stdout.readline().startswith("ready"), self.log()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(SECONDS)
        self.process.stdout.close()
        return status

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def connect(self) -> CpmConnection:
        return connect(str(self.socket), timeout=SECONDS)

    def call(self, operation, /, fds=(), **arguments):
        with self.connect() as connection:
            return connection.call(operation, arguments, fds=fds)

    def apply(self, **release):
        cose, wrapped = self.cloud.release(self.call("device_public_key")["spki"], **release)
        return self.call("apply_release", release=cose, wrapped_keys=wrapped)

    def package(self, payload: bytes = SCRIPT, **more) -> bytes:
        return self.vendor.package(payload, self.cloud.class_key(NAME, more.get("key_version", 1)), **more)

    def install(self, payload: bytes = SCRIPT, **more):
        path = self.folder / "package.cpk"
        path.write_bytes(self.package(payload, **more))
        with path.open("rb") as file:
            return self.call("install", fds=[file.fileno()])

    def command_line(self, *words, stdin: bytes = b"") -> subprocess.CompletedProcess:
        return subprocess.run(
            [CPM, *words],
            input=stdin,
            capture_output=True,
            env={**os.environ, "CPM_SOCKET": str(self.socket)},
            timeout=SECONDS,
            check=False,
        )

"""A CPM in a process of its own, over the custody that a test chooses, and the cloud and vendor it trusts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from simulators.releasing_cloud import AUDIENCE, CP_ID, DEVICE_ID, NAME, ReleasingCloud, make_vendor

from shared.wire.cpm_channel import CpmConnection, connect

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

CPM = str(Path(sys.executable).with_name("cpm"))
SECONDS = 120
SCRIPT = b'#!/bin/sh\necho "running $CP_VERSION $*"\ncat\nexit 5\n'


@dataclass
class Cpm:
    """May be started, stopped, killed and started again; its state folder may be copied in between.

    Attributes:
        folder: For everything.
        options: Further ones of ``cpm serve``.
        custody: What ``--custody`` names; software with a small key unless told otherwise.
        environment: What the custody's library needs.
        before_start: Done before each start.
    """

    folder: Path
    cloud: ReleasingCloud = field(default_factory=ReleasingCloud)
    vendor: object = field(default_factory=make_vendor)
    options: tuple[str, ...] = ()
    custody: str | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    before_start: Callable[[], None] = lambda: None
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
            **({"key-type": "p256"} if self.custody is None else {"custody": self.custody}),
            **replaced,
        }
        return [CPM, "serve", *[word for name, value in values.items() for word in (f"--{name}", value)]]

    def start(self, *, wrapper: Sequence[str] = (), given: str = "") -> None:
        """Start it, inside a program that reads ``given`` if there is one; return when it is ready."""
        self.before_start()
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [*wrapper, *self.command(), *self.options],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env={**os.environ, **self.environment},
            )
        with self.process.stdin as stdin:
            stdin.write(given)
        assert self.process.stdout.readline().startswith("ready"), self.log()

    def refused(self, *options: str) -> subprocess.CompletedProcess[str]:
        """Start it, and return how it ended: a CPM that may not serve ends by itself."""
        self.before_start()
        return self.run(*self.command()[1:], *options)

    def kill(self) -> None:
        if self.process is not None and self.process.returncode is None:
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

    def apply(self, sequence: int, *, keys: Mapping[str, int] | None = None, **more):
        spki = self.call("device_public_key")["spki"]
        cose, wrapped = self.cloud.release(spki, sequence=sequence, keys=keys or {NAME: 1}, **more)
        return self.call("apply_release", release=cose, wrapped_keys=wrapped)

    def package(self, payload: bytes = SCRIPT, **more) -> bytes:
        return self.vendor.package(payload, self.cloud.class_key(NAME, more.get("key_version", 1)), **more)

    def install(self, payload: bytes = SCRIPT, **more):
        path = self.folder / "package.cpk"
        path.write_bytes(self.package(payload, **more))
        with path.open("rb") as file:
            return self.call("install", fds=[file.fileno()])

    def install_and_run(self) -> subprocess.CompletedProcess[str]:
        self.install(b"#!/bin/sh\necho ran\n")
        return self.run("run", CP_ID)

    def command_line(self, *words: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run the command ``cpm`` beside it."""
        return subprocess.run(
            [CPM, *words],
            input=stdin,
            capture_output=True,
            env={**os.environ, **self.environment, "CPM_SOCKET": str(self.socket)},
            timeout=SECONDS,
            check=False,
        )

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """The same, in text."""
        done = self.command_line(*words)
        return subprocess.CompletedProcess(
            done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
        )

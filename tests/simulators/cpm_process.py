"""A CPM in a process of its own, over a custody that a test chooses."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from simulators.releasing_cloud import AUDIENCE, CP_ID, DEVICE_ID, NAME, ReleasingCloud, make_vendor

from shared.wire.cpm_channel import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

CPM = str(Path(sys.executable).with_name("cpm"))
SECONDS = 120
SCRIPT = b"#!/bin/sh\necho ran\n"


@dataclass
class CpmProcess:
    """Started, stopped and killed; its state folder may be copied in between.

    Attributes:
        folder: For everything.
        custody: What ``--custody`` names.
        environment: What the custody's library needs.
        before_start: Done before each start.
    """

    folder: Path
    custody: str
    environment: Mapping[str, str] = field(default_factory=dict)
    before_start: Callable[[], None] = lambda: None
    cloud: ReleasingCloud = field(default_factory=ReleasingCloud)
    vendor: object = field(default_factory=make_vendor)
    process: subprocess.Popen | None = None

    @property
    def state(self) -> Path:
        return self.folder / "state"

    @property
    def socket(self) -> Path:
        return self.folder / "cpm.sock"

    def command(self) -> list[str]:
        (self.folder / "release.pem").write_bytes(self.cloud.release_key_pem())
        (self.folder / "trust.pem").write_bytes(self.vendor.root_pem)
        return [
            *(CPM, "serve", "--custody", self.custody, "--state", str(self.state)),
            *("--socket", str(self.socket), "--audience", AUDIENCE, "--device-id", DEVICE_ID),
            *("--release-key", str(self.folder / "release.pem")),
            *("--trust", str(self.folder / "trust.pem")),
        ]

    def start(self) -> None:
        self.before_start()
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdout=subprocess.PIPE, stderr=log, text=True, env=self._environment()
            )
        assert self.process.stdout.readline().startswith("ready"), self.log()

    def refused(self) -> subprocess.CompletedProcess:
        """Start it, and return how it ended: a CPM that may not serve ends by itself."""
        self.before_start()
        return self.run(*self.command()[1:])

    def run(self, *words: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [CPM, *words],
            env={**self._environment(), "CPM_SOCKET": str(self.socket)},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(SECONDS) == 0, self.log()
        self.process.stdout.close()

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()

    def log(self) -> str:
        return (self.folder / "log").read_text()

    def call(self, operation, /, fds=(), **arguments):
        with connect(str(self.socket), timeout=SECONDS) as connection:
            return connection.call(operation, arguments, fds=fds)

    def apply(self, sequence: int):
        cose, wrapped = self.cloud.release(
            self.call("device_public_key")["spki"], sequence=sequence, keys={NAME: 1}
        )
        return self.call("apply_release", release=cose, wrapped_keys=wrapped)

    def install_and_run(self) -> subprocess.CompletedProcess:
        path = self.folder / "package.cpk"
        path.write_bytes(self.vendor.package(SCRIPT, self.cloud.class_key(NAME, 1)))
        with path.open("rb") as file:
            self.call("install", fds=[file.fileno()])
        return self.run("run", CP_ID)

    def _environment(self) -> dict[str, str]:
        return {**os.environ, **self.environment}

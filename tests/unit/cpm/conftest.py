"""A CPM's service over real custody, real crypto and a folder of its own, without its process."""

from __future__ import annotations

import os
import socket
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest
from simulators.releasing_cloud import AUDIENCE, CP_ID, DEVICE_ID, ReleasingCloud, Vendor, make_vendor

from cpm.clock import ProvenClock, system_clock
from cpm.custody.port import DeviceKeyType
from cpm.custody.software import SoftwareCustody
from cpm.sealed_store import SealedStore
from cpm.service import Pins, Service
from cpm.state_file import LockedFolder, StateFile
from cpm.workload import Rules
from shared.wire.cpm_contract import CpmOperation, Request

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Device:
    """A device: start it as often as wanted over the same folder."""

    folder: Path
    cloud: ReleasingCloud
    vendor: Vendor
    key_type: DeviceKeyType = DeviceKeyType.P256
    require_package_signature: bool = False
    now: int | None = None
    elapsed: int = 1000
    quota: int | None = None
    service: Service = field(init=False)

    def start(self) -> None:
        custody = SoftwareCustody.open(self.folder, key_type=self.key_type)
        self.state_file = StateFile.open(self.folder, custody, audience=AUDIENCE, device_id=DEVICE_ID)
        self.custody = custody
        self.store = SealedStore(self.folder / "packages", quota=self.quota)
        self.service = Service(
            state_file=self.state_file,
            store=self.store,
            custody=custody,
            pins=Pins(
                release_keys=[self.cloud.release_key.public_key()],
                trust=self.vendor.trust,
                require_package_signature=self.require_package_signature,
                workloads=Rules(stream_for=frozenset({CP_ID})),
            ),
            clock=ProvenClock(
                lambda: self.now if self.now is not None else system_clock(), elapsed=lambda: self.elapsed
            ),
            program_version="test",
        )

    def call(self, operation: str, /, *, fds=(), client: int = -1, **arguments):
        request = Request(operation=CpmOperation(operation), arguments=arguments)
        return self.service.handle(request, fds=fds, client=client)

    @property
    def spki(self) -> bytes:
        return self.custody.public_key.spki

    def apply(self, *, sequence: int, keys, **more):
        release, wrapped = self.cloud.release(self.spki, sequence=sequence, keys=keys, **more)
        return self.call("apply_release", release=release, wrapped_keys=wrapped)

    def install(self, package: bytes):
        with passed_file(self.folder.parent, package) as fd:
            return self.call("install", fds=(fd,))

    def run(self, cp_id: str, *arguments: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
        with _standard_streams(self.folder.parent, stdin) as (fds, out, err):
            ours, theirs = socket.socketpair()
            with ours, theirs:
                reply = self.call(
                    "run", cp_id=cp_id, arguments=list(arguments), fds=fds, client=theirs.fileno()
                )
            return reply["exit_status"], out.read_bytes(), err.read_bytes()

    def stream(self, cp_id: str) -> bytes:
        """Return a payload that is no longer than a pipe's buffer."""
        read, write = os.pipe()
        ours, theirs = socket.socketpair()
        with ours, theirs, open(read, "rb") as pipe:  # noqa: PTH123 - a descriptor has no path
            try:
                self.call("stream", cp_id=cp_id, fds=[write], client=theirs.fileno())
            finally:
                os.close(write)
            return pipe.read()

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.folder)): path.read_bytes()
            for path in sorted(self.folder.rglob("*"))
            if path.is_file()
        }


@contextmanager
def passed_file(folder: Path, content: bytes, *, flags: int = os.O_RDONLY):
    path = folder / "passed"
    path.write_bytes(content)
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


@contextmanager
def _standard_streams(folder: Path, stdin: bytes):
    paths = [folder / name for name in ("stdin", "stdout", "stderr")]
    paths[0].write_bytes(stdin)
    fds = [os.open(paths[0], os.O_RDONLY)]
    fds += [os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600) for path in paths[1:]]
    try:
        yield tuple(fds), paths[1], paths[2]
    finally:
        for fd in fds:
            os.close(fd)


@pytest.fixture(scope="session")
def vendor():
    return make_vendor()


@pytest.fixture
def device(tmp_path, vendor):
    folder = tmp_path / "state"
    folder.mkdir(mode=0o700)
    made = Device(folder=folder, cloud=ReleasingCloud(), vendor=vendor)
    made.start()
    return made


@pytest.fixture
def power_up(vendor):
    """Start a device's service over a folder as its process does: the folder is made and locked first."""

    def start(root: Path, cloud: ReleasingCloud) -> Device:
        device = Device(folder=root / "state", cloud=cloud, vendor=vendor)
        with LockedFolder.open(device.folder):
            device.start()
        return device

    return start

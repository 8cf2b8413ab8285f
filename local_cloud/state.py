"""The state folder of a local cloud: where everything is, who uses it, and what a restart keeps.

::

    cloud.json            what a running cloud tells its users; there only while it runs
    endpoints.json        address and ports, kept over restarts
    ca.pem ca.key         local root: signs the servers' certificate server.pem server.key
    fleet-ca.pem .key     fleet CA: signs devices, build machines, package signers
    identity.pem .key     signs the access tokens of the function app
    service.key           shared access key of the hub's service endpoint
    function-keys.json    the function app's keys
    policy.json           the release policy; written once, then the operator's
    audit/                the audit chain of the function app
    release-key.pem       public half of the newest release key, for a CPM to pin
    hub/ vault/ functions/  state of the three servers;  logs/ run/  their logs and process ids
"""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from local_cloud.files import PRIVATE, write_atomically
from shared import strict_json
from shared.errors import Conflict, FormatError, NotFound, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

_MAX_PORT = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Where a cloud listens: its address, and a port for each server by name."""

    address: str
    ports: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class StateFolder:
    """A state folder.

    Args:
        path: Absolute.
    """

    path: Path

    @property
    def cloud_file(self) -> Path:
        """What a running cloud tells its users."""
        return self.path / "cloud.json"

    @property
    def policy_file(self) -> Path:
        """The release policy."""
        return self.path / "policy.json"

    @property
    def audit_folder(self) -> Path:
        """The audit chain."""
        return self.path / "audit"

    @property
    def logs(self) -> Path:
        """The servers' logs."""
        return self.path / "logs"

    def file(self, name: str) -> Path:
        """Return the path of a file or folder in it."""
        return self.path / name

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Make the folder if it is not there, and hold it: one cloud at a time.

        Raises:
            Conflict: ``state_locked``: another one holds it.
            StorageError: It cannot be made or locked.
        """
        try:
            for folder in (self.path, self.logs, self.file("run")):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            handle = os.open(self.file("lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
        except OSError as error:
            raise StorageError(f"cannot use {error.filename}: {error.strerror}") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise Conflict(
                f"a local cloud already runs in {self.path}",
                code="state_locked",
                hint="stop it, or choose another folder with --state",
            ) from error
        try:
            yield
        finally:
            os.close(handle)

    def endpoints(self) -> Endpoints | None:
        """Return where this cloud listened before, or ``None`` if it never ran.

        Raises:
            FormatError: The file is damaged.
        """
        path = self.file("endpoints.json")
        if not path.exists():
            return None
        document = _object(path)
        address, ports = document.get("address"), document.get("ports")
        if not isinstance(address, str) or not isinstance(ports, dict):
            raise FormatError(f"{path}: expected an address and ports")
        for name, port in ports.items():
            if not isinstance(port, int) or not 0 < port <= _MAX_PORT:
                raise FormatError(f"{path}: /ports/{name}: expected a port, found {port!r:.32}")
        return Endpoints(address=address, ports=ports)

    def keep_endpoints(self, endpoints: Endpoints) -> None:
        """Remember where this cloud listens."""
        document = {"address": endpoints.address, "ports": dict(endpoints.ports)}
        write_atomically(self.file("endpoints.json"), json.dumps(document, indent=2).encode())

    def announce_cloud(self, document: Mapping[str, object]) -> None:
        """Write ``cloud.json``; it holds keys, so it is for its owner alone."""
        data = json.dumps(document, indent=2).encode() + b"\n"
        write_atomically(self.cloud_file, data, mode=PRIVATE)

    def withdraw_cloud(self) -> None:
        """Remove ``cloud.json``: the cloud does not run."""
        self.cloud_file.unlink(missing_ok=True)

    def cloud(self) -> Mapping[str, object]:
        """Return ``cloud.json``.

        Raises:
            NotFound: ``cloud_not_running``.
            FormatError: The file is damaged.
        """
        if not self.cloud_file.exists():
            raise NotFound(
                f"no local cloud runs in {self.path}: {self.cloud_file.name} is not there",
                code="cloud_not_running",
                hint=f"start it with: local-cloud up --state {self.path}",
            )
        return _object(self.cloud_file)


def _object(path: Path) -> Mapping[str, object]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {path}: {error.strerror}") from error
    document = strict_json.loads(data, where=str(path))
    if not isinstance(document, dict):
        raise FormatError(f"{path}: expected an object, found {type(document).__name__}")
    return document

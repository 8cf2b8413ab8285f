"""The whole local cloud as a process, with the function app at work, and what a caller of it needs."""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from typing import TYPE_CHECKING, Self

import httpx
from simulators.hub_devices import HubDevices

if TYPE_CHECKING:
    from pathlib import Path


class RunningCloud:
    """A local cloud that runs.

    Args:
        state: Its folder.
        options: Further ones of ``local-cloud up``.
        app: Another function app than the project's.
        policy: The release policy; by default the local cloud's own.

    Attributes:
        state: Its folder.
        url: Of the function app.
        keys: The function keys by name.
        ca_file: What TLS is trusted by.
        http: A client of the function app.
        devices: The hub's.
    """

    def __init__(
        self, state: Path, *options: str, app: Path | None = None, policy: dict[str, object] | None = None
    ) -> None:
        self.state = state
        self._options = [*options, *([] if app is None else ["--app", str(app)])]
        self._policy = policy

    def __enter__(self) -> Self:
        if self._policy is not None:
            self.state.mkdir(mode=0o700)
            (self.state / "policy.json").write_text(json.dumps(self._policy))
        command = [sys.executable, "-m", "local_cloud.main", "up", "--state", str(self.state), *self._options]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = self._process.stdout.readline()
        assert line.startswith("ready"), line
        self.description = json.loads((self.state / "cloud.json").read_text())
        self.url = self.description["functions"]["url"]
        self.keys = self.description["functions"]["keys"]
        self.ca_file = self.description["hub"]["ca_file"]
        self.devices = HubDevices(
            self.description["hub"]["service_connection_string"],
            device_host=self.description["hub"]["host"],
            ca_file=self.ca_file,
        )
        trust = ssl.create_default_context(cafile=self.ca_file)
        self.http = httpx.Client(base_url=self.url, verify=trust, timeout=120)
        return self

    def __exit__(self, *_: object) -> None:
        self.http.close()
        self._process.terminate()
        self._process.wait(timeout=60)
        self._process.stdout.close()

    def call(self, name: str, body: object = None, *, key: str = "provision", **options) -> httpx.Response:
        """Call a contract: POST with a body, else GET."""
        headers = {"x-functions-key": self.keys[key], **options.pop("headers", {})}
        method = "GET" if body is None else "POST"
        return self.http.request(method, f"/api/{name}", json=body, headers=headers, **options)

    def provision(self, name: str) -> None:
        """Make a class key."""
        assert self.call("ProvisionKey", {"key_name": name}).status_code == 201

    def logs(self) -> str:
        """Return all that its processes have logged."""
        return "\n".join(file.read_text() for file in sorted((self.state / "logs").iterdir()))

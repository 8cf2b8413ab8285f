"""The cloud as the demonstration sees it: `cloud.json`, the function app's HTTP contracts, the twins.

Twins are read with the unmodified `azure-iot-hub` SDK, the function app is called as any operator would.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from azure.iot.hub import IoTHubRegistryManager
from msrest.exceptions import ClientException

from local_cloud.demo.waiting import RETRY_SECONDS, until
from shared.errors import EdbError, FormatError, TransportError
from shared.strict_json import loads

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_CALL_SECONDS = 15.0
_SERVER_ERRORS = 500
_TOO_MANY = 429


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What a function answered: HTTP status and JSON object."""

    status: int
    body: Mapping[str, Any]


class Cloud:
    """A running local cloud.

    Args:
        folder: Its state folder; its ``cloud.json`` is there once it is ready.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._registries: dict[str, Any] = {}

    @property
    def description(self) -> Mapping[str, Any]:
        """``cloud.json`` as it is now; waited for while a cloud that was killed is starting again.

        Raises:
            TransportError: It does not come back.
        """
        path = self.folder / "cloud.json"
        value = loads(until(lambda: _content(path), what=f"return of {path}"), where=str(path))
        if not isinstance(value, dict):
            raise FormatError(f"{path}: expected a JSON object, found {type(value).__name__}")
        return value

    @property
    def audience(self) -> str:
        """The deployment's id."""
        return str(self.description["audience"])

    @property
    def ca_file(self) -> str:
        """PEM file of the root that signed the servers' certificates."""
        return str(self.description["hub"]["ca_file"])

    @property
    def fleet_ca_file(self) -> Path:
        """PEM file of the root that signs devices and build machines."""
        return Path(self.description["fleet_ca_file"])

    @property
    def functions_url(self) -> str:
        """Where the function app listens, without ``/api``."""
        return str(self.description["functions"]["url"])

    def function_key(self, name: str) -> str:
        """Return a function key: ``provision``, ``wrap`` or ``admin``."""
        return str(self.description["functions"]["keys"][name])

    @property
    def log_files(self) -> list[Path]:
        """Logs of the cloud's processes."""
        return sorted((self.folder / "logs").glob("*.log"))

    def post(self, function: str, body: Mapping[str, object], *, key: str) -> Answer:
        """Call a function once.

        Args:
            function: Its name, such as ``RotateKey``.
            body: What is posted.
            key: Name of the function key to use.

        Raises:
            TransportError: It did not answer, or with a server's fault.
        """
        try:
            response = self._http.post(
                f"{self.functions_url}/api/{function}",
                json=dict(body),
                headers={"x-functions-key": self.function_key(key)},
            )
        except httpx.TransportError as error:
            raise TransportError(f"{function}: {type(error).__name__}: {error}") from error
        if response.status_code >= _SERVER_ERRORS or response.status_code == _TOO_MANY:
            raise TransportError(f"{function}: {response.status_code} {response.text[:200]}")
        return Answer(status=response.status_code, body=_object(response, function))

    def call(self, function: str, body: Mapping[str, object], *, key: str) -> Answer:
        """Call a function that may be called twice, as :meth:`post` does, until it answers.

        Raises:
            TransportError: No answer in time.
        """
        return until(
            lambda: self.post(function, body, key=key), what=f"POST /api/{function}", pause=RETRY_SECONDS
        )

    def twin(self, device_id: str) -> Twin:
        """Read a device's twin.

        Raises:
            TransportError: The hub does not answer.
        """
        try:
            found = self._registry().get_twin(device_id)
        except (ClientException, OSError) as error:
            raise TransportError(f"twin of {device_id}: {type(error).__name__}: {error}") from error
        return Twin(
            tags=found.tags or {}, desired=found.properties.desired, reported=found.properties.reported
        )

    def audit_lines(self, device_id: str) -> Iterator[Mapping[str, Any]]:
        """Yield what the function app's audit log says about a device, oldest first."""
        with (self.folder / "logs" / "functions-host.log").open(encoding="utf-8", errors="replace") as log:
            for line in log:
                entry = _json_object(line)
                if entry.get("logger") != "audit":
                    continue
                audited = _json_object(entry.get("event"))
                if audited.get("device_id") == device_id:
                    yield audited

    @cached_property
    def _http(self) -> httpx.Client:
        trust = httpx.create_ssl_context(verify=self.ca_file, trust_env=False)
        return httpx.Client(verify=trust, timeout=_CALL_SECONDS, trust_env=False)

    def _registry(self) -> Any:  # noqa: ANN401 - the SDK carries no types
        connection = self.description["hub"]["service_connection_string"]
        registry = self._registries.get(connection)
        if registry is None:
            registry = IoTHubRegistryManager.from_connection_string(connection)
            registry.protocol.config.connection.verify = self.ca_file
            registry.protocol.config.proxies.use_env_settings = False  # the hub is on the loopback interface
            self._registries[connection] = registry
        return registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """A device twin, and what the key-sharing protocol keeps in it (protocol section 4)."""

    tags: Mapping[str, Any]
    desired: Mapping[str, Any]
    reported: Mapping[str, Any]

    @property
    def outcome(self) -> tuple[str | None, str | None]:
        """State and reason that the function app tagged the device with."""
        tag = self.tags.get("confidential_packages") or {}
        return tag.get("state"), tag.get("reason")

    def acknowledged(self, key_name: str) -> Mapping[str, Any]:
        """Return what the device reports of a class key: ``ver``, ``state``, ``kcv``."""
        status = self.reported.get("confidential_package_status") or {}
        found: Mapping[str, Any] = (status.get("keys") or {}).get(key_name) or {}
        return found

    def wrapped_key(self, key_name: str) -> str | None:
        """Return the wrapped class key that the device was sent, base64."""
        found = (self.desired.get("confidential_package_keys") or {}).get(key_name)
        return None if found is None else str(found)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _object(response: httpx.Response, function: str) -> Mapping[str, Any]:
    found = _json_object(response.text)
    if not found:
        raise EdbError(f"{function}: expected a JSON object, found {response.text[:80]!r}")
    return found


def _json_object(text: object) -> dict[str, Any]:
    """Return the JSON object that a log line holds; an empty one if it holds none."""
    if not isinstance(text, str):
        return {}
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}

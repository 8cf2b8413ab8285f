"""``local-cloud up``: bring the servers up in order, tell where they are, keep them up until told to stop.

Order: claim the state folder and an address; make what is missing; start hub and vault; make the vault's
keys; start the functions host, which needs all of them; write ``cloud.json``; say ``ready``.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import signal
import sys
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from local_cloud import addresses, credentials, serving
from local_cloud.files import write_atomically
from local_cloud.state import Endpoints, StateFolder
from local_cloud.supervisor import Child, ChildSettings
from shared.errors import NotFound, SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

DEFAULT_SCHEDULE = "*/10 * * * * *"
"""When the full pass of key distribution runs locally: every ten seconds."""

TWIN_EVENTS_HUB = "twin-events"
"""What the function app calls the hub's change events."""

_HUB, _VAULT, _FUNCTIONS = "twin-hub", "key-vault", "functions-host"
# Nothing of the caller's environment reaches a server but what a process needs to run at all.
_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")


@dataclass(frozen=True, slots=True, kw_only=True)
class UpSettings:
    """What the command was told.

    Attributes:
        state: The state folder.
        address: A loopback address, or ``None`` to choose one.
        app: Folder of the function app, or ``None`` for the project's own.
        schedule: When the full pass of key distribution runs.
    """

    state: StateFolder
    address: str | None
    app: Path | None
    schedule: str


async def bring_up(settings: UpSettings) -> None:
    """Run a local cloud until SIGTERM or SIGINT.

    Raises:
        EdbError: It could not be brought up; what was started has ended.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    cloud = _Cloud(settings)
    async with AsyncExitStack() as stack:
        stack.enter_context(settings.state.locked())
        settings.state.withdraw_cloud()
        starting = asyncio.ensure_future(cloud.start(stack))
        stopping = asyncio.ensure_future(stop.wait())
        await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            await asyncio.wait({starting})
            return
        serving.announce(starting.result())
        await stopping


class _Cloud:
    """The parts of a cloud as they come up."""

    def __init__(self, settings: UpSettings) -> None:
        self._settings = settings
        self._state = settings.state
        self._children: dict[str, Child] = {}

    async def start(self, stack: AsyncExitStack) -> str:
        """Start everything; what must be undone goes on the stack.

        Returns:
            The line that says so.
        """
        app = _app_folder(self._settings.app)
        known = self._state.endpoints()
        claim = await asyncio.to_thread(_claim, self._settings.address, known)
        stack.callback(claim.release)
        address, ports = claim.address, dict(known.ports) if known is not None else {}
        await asyncio.to_thread(credentials.ensure_credentials, self._state, address)
        self._define(address, ports, app)
        stack.push_async_callback(self._stop)
        await asyncio.gather(self._children[_HUB].start(), self._children[_VAULT].start())
        release_keys = await self._vault_keys(address)
        await self._children[_FUNCTIONS].start()
        ports = {name: child.port for name, child in self._children.items()}
        self._state.keep_endpoints(Endpoints(address=address, ports=ports))
        write_atomically(self._state.file("release-key.pem"), release_keys[-1].encode())
        self._state.announce_cloud(self._description(address, release_keys))
        stack.callback(self._state.withdraw_cloud)
        watches = [asyncio.create_task(child.watch()) for child in self._children.values()]
        for watch in watches:
            stack.callback(watch.cancel)
        return f"ready {self._state.cloud_file}"

    async def _stop(self) -> None:
        await asyncio.gather(*(child.stop() for child in self._children.values()))

    async def _vault_keys(self, address: str) -> list[str]:
        from local_cloud.vault_keys import ensure_vault_keys  # noqa: PLC0415 - the SDK is slow to load

        return await asyncio.to_thread(
            ensure_vault_keys,
            self._url(_VAULT, address),
            identity_key=self._state.file("identity.key").read_bytes(),
            ca_file=self._state.file("ca.pem"),
        )

    def _url(self, child: str, address: str) -> str:
        return f"https://{address}:{self._children[child].port}"

    def _define(self, address: str, ports: Mapping[str, int], app: Path) -> None:
        plain = _inherited()
        file = self._state.file
        tls = ["--server-cert", file("server.pem"), "--server-key", file("server.key")]
        common = ["--address", address, *tls, "--stdin-lifeline"]

        def hub(port: int) -> Sequence[str]:
            return _module(
                "local_cloud.twin_hub",
                *("--state", file("hub"), *common, "--https-port", port),
                *("--mqtt-port", addresses.MQTT_PORT, "--client-ca", file("fleet-ca.pem")),
                *("--service-key-file", file("service.key"), "--identity-public-key", file("identity.pem")),
            )

        def vault(port: int) -> Sequence[str]:
            return _module(
                "local_cloud.key_vault",
                *("--state", file("vault"), *common, "--port", port),
                *("--identity-public-key", file("identity.pem")),
            )

        def functions(port: int) -> Sequence[str]:
            return _module(
                "local_cloud.functions_host",
                *("--app", app, "--state", file("functions"), *common, "--port", port),
                *("--keys-file", file("function-keys.json"), "--identity-key", file("identity.key")),
                *("--hub-url", self._url(_HUB, address), "--ca-file", file("ca.pem")),
            )

        self._child(_HUB, hub, lambda: plain, ports)
        self._child(_VAULT, vault, lambda: plain, ports)
        self._child(_FUNCTIONS, functions, lambda: plain | self._app_environment(address), ports)

    def _child(
        self,
        name: str,
        command: Callable[[int], Sequence[str]],
        environment: Callable[[], Mapping[str, str]],
        ports: Mapping[str, int],
    ) -> None:
        settings = ChildSettings(
            name=name,
            command=command,
            environment=environment,
            log=self._state.logs / f"{name}.log",
            pid_file=self._state.file("run") / f"{name}.pid",
        )
        self._children[name] = Child(settings, ports.get(name, 0))

    def _app_environment(self, address: str) -> dict[str, str]:
        """Return the function app's settings."""
        ca_file = str(self._state.file("ca.pem"))
        return {
            "AzureWebJobsStorage": "local",  # queues are the functions host's own
            "EDB_AUDIENCE": credentials.AUDIENCE,
            "EDB_KEY_VAULT_URL": self._url(_VAULT, address),
            "EDB_KEY_VAULT_VERIFY_CHALLENGE": "false",
            "EDB_IOT_HUB_HOSTNAME": f"{address}:{self._children[_HUB].port}",
            "EDB_POLICY_FILE": str(self._state.policy_file),
            "EDB_POLICY_REFRESH_SECONDS": "1",
            "EDB_AUDIT_FOLDER": str(self._state.audit_folder),
            "EDB_TRUSTED_ROOTS_FILE": str(self._state.file("fleet-ca.pem")),
            "EDB_DISTRIBUTE_SCHEDULE": self._settings.schedule,
            "EDB_TWIN_EVENTS_HUB": TWIN_EVENTS_HUB,
            "FUNCTIONS_REQUEST_BODY_SIZE_LIMIT": str(256 * 1024),  # the contracts take 64 KiB
            "REQUESTS_CA_BUNDLE": ca_file,
            "SSL_CERT_FILE": ca_file,
            # Where its traces and metrics go is for whoever starts the cloud to say.
            **{name: value for name, value in os.environ.items() if name.startswith("OTEL_")},
        }

    def _description(self, address: str, release_keys: Sequence[str]) -> dict[str, object]:
        host = f"{address}:{self._children[_HUB].port}"
        connection = (
            f"HostName={host};SharedAccessKeyName=service;"
            f"SharedAccessKey={credentials.service_key(self._state)}"
        )
        return {
            "audience": credentials.AUDIENCE,
            "address": address,
            "hub": {
                "host": address,
                "service_connection_string": connection,
                "ca_file": str(self._state.file("ca.pem")),
            },
            "functions": {
                "url": self._url(_FUNCTIONS, address),
                "keys": credentials.function_keys(self._state),
            },
            "vault": {"url": self._url(_VAULT, address)},
            "release_keys": list(release_keys),
            "fleet_ca_file": str(self._state.file("fleet-ca.pem")),
            "policy_file": str(self._state.policy_file),
            "audit_folder": str(self._state.audit_folder),
            "logs": str(self._state.logs),
        }


def _claim(wanted: str | None, known: Endpoints | None) -> addresses.AddressClaim:
    if known is not None:
        if wanted not in {None, known.address}:
            problem = (
                f"this state folder belongs to a cloud on {known.address}; "
                f"devices, keys and certificates hold that address, so it cannot move to {wanted}"
            )
            raise SettingsError([problem])
        ports = [addresses.MQTT_PORT, *known.ports.values()]
        return addresses.claim(known.address, ports, patience=addresses.PATIENCE_SECONDS)
    if wanted is not None:
        return addresses.claim(wanted, [addresses.MQTT_PORT])
    return addresses.claim_first_free()


def _app_folder(chosen: Path | None) -> Path:
    """Return the folder of ``function_app.py`` and ``host.json``."""
    folder = chosen
    if folder is None:
        found = importlib.util.find_spec("function_app")
        if found is None or found.origin is None:
            raise NotFound(
                "there is no module function_app",
                hint="install the project with pip install -e, or name the app's folder with --app",
            )
        folder = Path(found.origin).parent
    for name in ("function_app.py", "host.json"):
        if not (folder / name).is_file():
            raise NotFound(f"{folder}: expected a function app, found no {name}")
    return folder.resolve()


def _module(name: str, *arguments: object) -> list[str]:
    # -P: the folder that the command was called in is no place to import from.
    return [sys.executable, "-P", "-m", name, *(str(argument) for argument in arguments)]


def _inherited() -> dict[str, str]:
    return {name: os.environ[name] for name in _INHERITED if name in os.environ}

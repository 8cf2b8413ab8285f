"""The hub itself: what back ends and devices may do, whatever protocol they speak.

It joins the store with the devices that are connected: a write of desired properties is committed and
then pushed, a direct method is called and answered, an identity that is disabled or deleted loses its
connection. A newer connection of an identity replaces the older one.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
import logging
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol
from urllib.parse import quote

from local_cloud.twin_hub.broadcast import Broadcast
from local_cloud.twin_hub.documents import TwinUpdate, service_time
from local_cloud.twin_hub.faults import Fault, HubError
from local_cloud.twin_hub.identities import NEVER, Status
from local_cloud.twin_hub.query import Page, run_query
from local_cloud.twin_hub.throttles import Operation, Throttles

if TYPE_CHECKING:
    from collections.abc import Set as AbstractSet

    from local_cloud.twin_hub.documents import Json, TwinDocument
    from local_cloud.twin_hub.identities import Identity, IdentityRequest
    from local_cloud.twin_hub.store import Store
    from shared.types import DeviceId

TWIN_RESPONSES = "$iothub/twin/res/#"
"""Topic filter of answers to twin requests."""

DESIRED_PATCHES = "$iothub/twin/PATCH/properties/desired/#"
"""Topic filter of pushed desired properties."""

METHOD_CALLS = "$iothub/methods/POST/#"
"""Topic filter of direct methods."""

MAX_METHOD_SECONDS = 300
"""Longest that a direct method is waited for, to connect and to answer each."""

log = logging.getLogger("twin_hub")


class DeviceConnection(Protocol):
    """A connected device, as the hub uses it."""

    @property
    def filters(self) -> AbstractSet[str]:
        """Topic filters that it has subscribed to."""

    def publish(self, topic: str, payload: bytes) -> None:
        """Send a message; one that is on its way when the connection breaks is lost."""

    def close(self, reason: str) -> None:
        """End the connection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodCall:
    """A direct method as a back end calls it; times in seconds."""

    name: str
    payload: object
    response_seconds: int
    connect_seconds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodResult:
    """What the device answered."""

    status: int
    payload: object


class Hub:
    """One IoT hub.

    Args:
        store: Its memory.
        throttles: Its limits.
    """

    def __init__(self, store: Store, throttles: Throttles) -> None:
        self.store = store
        self.throttles = throttles
        self._online: dict[DeviceId, DeviceConnection] = {}
        self._last_seen: dict[DeviceId, str] = {}
        self._calls: dict[tuple[DeviceId, str], asyncio.Future[MethodResult]] = {}
        self._presence = Broadcast()
        self._telemetry = 0

    # Devices

    def attach(self, key: DeviceId, connection: DeviceConnection) -> None:
        """Take over a device's connection; an older one of the same identity is closed."""
        older = self._online.get(key)
        self._online[key] = connection
        self._seen(key)
        log.info("device_connected", extra={"device_id": key, "replaced": older is not None})
        if older is not None:
            older.close("replaced by a newer connection")

    def detach(self, key: DeviceId, connection: DeviceConnection, *, reason: str) -> None:
        """Forget a connection that has ended, unless a newer one has taken its place."""
        if self._online.get(key) is connection:
            del self._online[key]
            self._seen(key)
            log.info("device_disconnected", extra={"device_id": key, "reason": reason})

    def subscribed(self, key: DeviceId, connection: DeviceConnection, *, durable: bool) -> None:
        """Take note of a connection's subscriptions; a ``durable`` session's are kept.

        Raises:
            StorageError: They could not be kept.
        """
        if self._online.get(key) is connection:
            if durable:
                self.store.save_session(key, frozenset(connection.filters))
            self._presence.ring()

    def disconnect_all(self, reason: str) -> None:
        """Close every connection; sessions stay."""
        for connection in list(self._online.values()):
            connection.close(reason)

    def twin_of_device(self, key: DeviceId) -> Json:
        """Return a twin as its device sees it.

        Raises:
            HubError: Throttled, or the identity is gone.
        """
        self.throttles.take(Operation.TWIN_READ)
        twin = self.store.twin(key)
        return {"desired": twin.desired.as_device_sees(), "reported": twin.reported.as_device_sees()}

    def report(self, key: DeviceId, patch: object) -> int:
        """Apply what a device reports, durably, and return the new version.

        Raises:
            HubError: Throttled, gone, or not a patch that fits.
            StorageError: It could not be kept.
        """
        self.throttles.take(Operation.TWIN_UPDATE)
        return self.store.patch_reported(key, patch).reported.version

    def take_telemetry(self, key: DeviceId, size: int) -> None:
        """Accept a telemetry message of ``size`` bytes; it is counted and dropped."""
        self._telemetry += 1
        log.debug("telemetry", extra={"device_id": key, "bytes": size, "count": self._telemetry})

    def method_answered(self, key: DeviceId, request_id: str, result: MethodResult) -> None:
        """Hand a device's answer to whoever waits for it."""
        waiting = self._calls.get((key, request_id))
        if waiting is not None and not waiting.done():
            waiting.set_result(result)

    # Back ends: identities

    def identity_json(self, identity: Identity) -> Json:
        """Return an identity as the service writes it."""
        return identity.to_json() | self._connection_json(identity.key)

    def change_identity(self, key: DeviceId, request: IdentityRequest, *, if_match: str | None) -> Identity:
        """Create an identity, or with ``if_match`` change it; a changed one has to connect again.

        Raises:
            HubError: It exists, does not exist, or its ETag is another one.
        """
        if if_match is None:
            return self.store.create_identity(key, request)
        before = self.store.identity(key)
        identity = self.store.update_identity(key, request, if_match=if_match)
        shut_out = request.status is not Status.ENABLED
        if shut_out or request.authentication != before.authentication:
            self._disconnect(key, "identity changed")
        if shut_out:
            self._disconnect_modules(key, "device disabled")
        return identity

    def delete_identity(self, key: DeviceId, *, if_match: str) -> None:
        """Delete an identity with its modules and end their connections.

        Raises:
            HubError: It does not exist, or its ETag is another one.
        """
        for gone in self.store.delete_identity(key, if_match=if_match):
            self._disconnect(gone, "deleted")
            self._last_seen.pop(gone, None)

    @property
    def connected_count(self) -> int:
        """How many devices and modules are connected."""
        return len(self._online)

    # Back ends: twins

    def twin_json(self, key: DeviceId) -> Json:
        """Return a twin as the service writes it.

        Raises:
            HubError: The identity does not exist.
        """
        identity, twin = self.store.identity(key), self.store.twin(key)
        document: Json = {"deviceId": identity.device}
        if identity.module is None:
            document |= {
                "status": identity.request.status.value,
                "capabilities": {"iotEdge": identity.request.is_edge},
            }
        else:
            document["moduleId"] = identity.module
        return document | self._connection_json(key) | _twin_json(identity, twin)

    def update_twin(self, key: DeviceId, body: object, *, if_match: str, replacing: bool) -> None:
        """Apply what a back end writes, durably, and push desired properties to the device.

        Raises:
            HubError: Not found, another ETag, or not an update that fits; nothing was changed.
            StorageError: It could not be kept; nothing was changed.
        """
        update = TwinUpdate.parse(body, replacing=replacing)
        change = self.store.update_twin(key, update, if_match=if_match, replacing=replacing)
        connection = self._online.get(key)
        if change.pushed is None or connection is None or DESIRED_PATCHES not in connection.filters:
            return
        version = change.twin.desired.version
        topic = f"$iothub/twin/PATCH/properties/desired/?$version={version}"
        connection.publish(topic, json.dumps(change.pushed, separators=(",", ":")).encode())

    def query(self, text: str, *, page_size: int, continuation: str | None) -> Page:
        """Return one page of a query's result.

        Raises:
            HubError: Throttled, or not a query.
        """
        self.throttles.take(Operation.QUERY)
        keys = self.store.identity_keys()
        return run_query(text, keys=keys, row=self.twin_json, page_size=page_size, continuation=continuation)

    # Back ends: direct methods

    async def call_method(self, key: DeviceId, call: MethodCall) -> MethodResult:
        """Call a direct method and wait for the answer.

        Raises:
            HubError: Not found, not connected in time, or not answered in time.
        """
        self.store.identity(key)
        connection = await self._presence.wait_for(
            lambda: self._ready_for_methods(key), seconds=call.connect_seconds
        )
        if connection is None:
            raise HubError(Fault.DEVICE_NOT_ONLINE, f"{key}: not connected, or takes no direct methods")
        request_id = secrets.token_hex(8)
        answer: asyncio.Future[MethodResult] = asyncio.get_running_loop().create_future()
        self._calls[key, request_id] = answer
        try:
            topic = f"$iothub/methods/POST/{quote(call.name, safe='')}/?$rid={request_id}"
            connection.publish(topic, json.dumps(call.payload, separators=(",", ":")).encode())
            async with asyncio.timeout(call.response_seconds):
                return await answer
        except TimeoutError as error:
            raise HubError(
                Fault.DEVICE_TIMEOUT, f"{key}: no answer within {call.response_seconds} seconds"
            ) from error
        finally:
            del self._calls[key, request_id]

    def _ready_for_methods(self, key: DeviceId) -> DeviceConnection | None:
        connection = self._online.get(key)
        return connection if connection is not None and METHOD_CALLS in connection.filters else None

    def _seen(self, key: DeviceId) -> None:
        self._last_seen[key] = service_time(dt.datetime.now(dt.UTC))

    def _connection_json(self, key: DeviceId) -> Json:
        seen = self._last_seen.get(key, NEVER)
        return {
            "connectionState": "Connected" if key in self._online else "Disconnected",
            "connectionStateUpdatedTime": seen,
            "lastActivityTime": seen,
        }

    def _disconnect(self, key: DeviceId, reason: str) -> None:
        connection = self._online.get(key)
        if connection is not None:
            connection.close(reason)

    def _disconnect_modules(self, device: DeviceId, reason: str) -> None:
        for key in [key for key in self._online if key.startswith(f"{device}/")]:
            self._disconnect(key, reason)


def _twin_json(identity: Identity, twin: TwinDocument) -> Json:
    return {
        "etag": twin.etag,
        "deviceEtag": identity.etag,
        "statusUpdateTime": NEVER,
        "cloudToDeviceMessageCount": 0,
        "authenticationType": identity.authentication.kind.value,
        "x509Thumbprint": identity.authentication.thumbprint_json(),
        "modelId": "",
        "version": twin.version,
        "tags": twin.tags,
        "properties": {
            "desired": twin.desired.as_service_sees(),
            "reported": twin.reported.as_service_sees(),
        },
    }

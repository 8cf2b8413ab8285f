"""Service routes of identities: devices and modules, one by one and in bulk, and their statistics."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING

from aiohttp import web

from local_cloud.twin_hub.faults import Fault, HubError
from local_cloud.twin_hub.identities import IdentityRequest, Status
from local_cloud.twin_hub.rest import answer, bare_etag, body_of, count_of, if_match, key_of
from local_cloud.twin_hub.store import ANY
from local_cloud.twin_hub.throttles import Operation
from shared.errors import FormatError
from shared.types import parse_device_id

if TYPE_CHECKING:
    from collections.abc import Iterable

    from local_cloud.twin_hub.documents import Json
    from local_cloud.twin_hub.hub import Hub
    from local_cloud.twin_hub.identities import Identity
    from shared.types import DeviceId

MAX_LISTED = 1000
"""Identities in one list."""

MAX_BULK = 100
"""Entries of a bulk call."""


class ImportMode(enum.Enum):
    """What one entry of a bulk call asks for."""

    CREATE = "create"
    CREATE_OR_UPDATE = "createOrUpdate"
    UPDATE = "update"
    UPDATE_IF_MATCH = "updateIfMatchETag"
    CREATE_OR_UPDATE_IF_MATCH = "createOrUpdateIfMatchETag"
    DELETE = "delete"
    DELETE_IF_MATCH = "deleteIfMatchETag"
    UPDATE_TWIN = "updateTwin"
    UPDATE_TWIN_IF_MATCH = "updateTwinIfMatchETag"


class IdentityRoutes:
    """Handlers of the identity routes.

    Args:
        hub: What they act on.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def routes(self) -> Iterable[web.RouteDef]:
        """Return the route table."""
        for path in ("/devices/{device}", "/devices/{device}/modules/{module}"):
            yield web.get(path, self.read)
            yield web.put(path, self.write)
            yield web.delete(path, self.delete)
        yield web.get("/devices/{device}/modules", self.list_modules)
        yield web.get("/devices", self.list_devices)
        yield web.post("/devices", self.bulk)
        yield web.get("/statistics/devices", self.count_devices)
        yield web.get("/statistics/service", self.count_connections)

    async def read(self, request: web.Request) -> web.Response:
        """Answer an identity."""
        self._hub.throttles.take(Operation.REGISTRY)
        return self._identity(self._hub.store.identity(key_of(request)))

    async def write(self, request: web.Request) -> web.Response:
        """Create an identity, or with If-Match change it."""
        self._hub.throttles.take(Operation.REGISTRY)
        wanted = IdentityRequest.parse(await body_of(request))
        return self._identity(self._hub.change_identity(key_of(request), wanted, if_match=if_match(request)))

    async def delete(self, request: web.Request) -> web.Response:
        """Delete an identity; If-Match is wanted, if only the wildcard."""
        self._hub.throttles.take(Operation.REGISTRY)
        etag = if_match(request)
        if etag is None:
            raise HubError(Fault.PRECONDITION_FAILED, "expected If-Match")
        self._hub.delete_identity(key_of(request), if_match=etag)
        return web.Response(status=204)

    async def list_devices(self, request: web.Request) -> web.Response:
        """Answer the first devices."""
        self._hub.throttles.take(Operation.REGISTRY)
        top = count_of(request.query.get("top"), default=MAX_LISTED, most=MAX_LISTED, where="top")
        return answer([self._hub.identity_json(identity) for identity in self._devices()[:top]])

    async def list_modules(self, request: web.Request) -> web.Response:
        """Answer the modules of a device."""
        self._hub.throttles.take(Operation.REGISTRY)
        device = self._hub.store.identity(key_of(request)).key
        keys = [key for key in self._hub.store.identity_keys() if key.startswith(f"{device}/")]
        return answer([self._hub.identity_json(self._hub.store.identity(key)) for key in keys])

    async def count_devices(self, _request: web.Request) -> web.Response:
        """Answer how many devices there are."""
        devices = self._devices()
        enabled = sum(device.request.status is Status.ENABLED for device in devices)
        return answer(
            {
                "totalDeviceCount": len(devices),
                "enabledDeviceCount": enabled,
                "disabledDeviceCount": len(devices) - enabled,
            }
        )

    async def count_connections(self, _request: web.Request) -> web.Response:
        """Answer how many devices are connected."""
        return answer({"connectedDeviceCount": self._hub.connected_count})

    async def bulk(self, request: web.Request) -> web.Response:
        """Do what up to 100 entries ask for; one that fails stops none of the others."""
        self._hub.throttles.take(Operation.REGISTRY)
        entries = await body_of(request)
        if not isinstance(entries, list) or len(entries) > MAX_BULK:
            raise FormatError(f"body: expected a list of at most {MAX_BULK} entries")
        errors = [error for entry in entries if (error := self._try_import(entry)) is not None]
        result = {"isSuccessful": not errors, "errors": errors, "warnings": []}
        return answer(result, status=400 if errors else 200)

    def _try_import(self, entry: object) -> Json | None:
        """Do what one entry asks for; return the error if it cannot be done."""
        device_id = entry.get("id") if isinstance(entry, dict) else None
        try:
            self._import(entry)
        except HubError as error:
            return {"deviceId": device_id, "errorCode": error.fault.name_on_wire, "errorStatus": str(error)}
        except FormatError as error:
            return {"deviceId": device_id, "errorCode": "ArgumentInvalid", "errorStatus": str(error)}
        return None

    def _import(self, entry: object) -> None:
        if not isinstance(entry, dict):
            raise FormatError(f"entry: expected an object, found {type(entry).__name__}")
        key, mode = _entry_key(entry), _import_mode(entry.get("importMode"))
        match mode:
            case ImportMode.DELETE | ImportMode.DELETE_IF_MATCH:
                self._hub.delete_identity(key, if_match=_entry_etag(entry, "eTag", mode))
            case ImportMode.UPDATE_TWIN | ImportMode.UPDATE_TWIN_IF_MATCH:
                self._import_twin(key, entry, etag=_entry_etag(entry, "twinETag", mode))
            case _:
                self._import_identity(key, entry, mode)
                if entry.get("tags") or entry.get("properties"):
                    self._import_twin(key, entry, etag=ANY)

    def _import_identity(self, key: DeviceId, entry: Json, mode: ImportMode) -> None:
        wanted = IdentityRequest.parse(entry)
        may_create = mode in {
            ImportMode.CREATE,
            ImportMode.CREATE_OR_UPDATE,
            ImportMode.CREATE_OR_UPDATE_IF_MATCH,
        }
        creates = mode is ImportMode.CREATE or (may_create and key not in self._hub.store)
        etag = None if creates else _entry_etag(entry, "eTag", mode)
        self._hub.change_identity(key, wanted, if_match=etag)

    def _import_twin(self, key: DeviceId, entry: Json, *, etag: str) -> None:
        body = {"tags": entry.get("tags"), "properties": entry.get("properties")}
        self._hub.update_twin(key, body, if_match=etag, replacing=False)

    def _identity(self, identity: Identity) -> web.Response:
        return answer(self._hub.identity_json(identity), etag=identity.etag)

    def _devices(self) -> list[Identity]:
        store = self._hub.store
        return [store.identity(key) for key in store.identity_keys() if "/" not in key]


def _entry_key(entry: Json) -> DeviceId:
    device, module = entry.get("id"), entry.get("moduleId")
    if not isinstance(device, str) or not isinstance(module, str | None):
        raise FormatError("entry: expected an id, and a moduleId if any, as text")
    return parse_device_id(f"{device}/{module}" if module else device, where="entry")


def _import_mode(value: object) -> ImportMode:
    if value is None:
        return ImportMode.CREATE
    for mode in ImportMode:
        if mode.value == value:
            return mode
    raise FormatError(f"importMode: found {str(value)[:32]!r}, which is none of the service's")


def _entry_etag(entry: Json, name: str, mode: ImportMode) -> str:
    if not mode.value.endswith("IfMatchETag"):
        return ANY
    etag = entry.get(name)
    if not isinstance(etag, str):
        raise FormatError(f"{name}: expected an ETag")
    return bare_etag(etag)

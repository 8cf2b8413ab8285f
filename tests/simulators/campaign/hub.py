"""The local hub in this process, behind the app's own port: kept in SQLite, killed and opened again."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Callable
from typing import TYPE_CHECKING

from functions.adapters.iot_hub import ROW_QUERIES, HubTwinRegistry, read_row
from local_cloud.twin_hub.faults import Fault, HubError
from local_cloud.twin_hub.hub import Hub
from local_cloud.twin_hub.identities import Authentication, AuthenticationKind, IdentityRequest, Status
from local_cloud.twin_hub.store import Store
from local_cloud.twin_hub.throttles import Throttles
from shared import strict_json
from shared.errors import Conflict, EdbError, FormatError, NotFound, TransportError
from shared.twin.ports import RowPage, Twin
from shared.types import DeviceId

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping
    from pathlib import Path

    from simulators.campaign.chaos import Chaos

Overlay = Callable[[dict], dict]
_AUTHENTICATION = Authentication(kind=AuthenticationKind.CERTIFICATE_AUTHORITY)


class _OverlaidHub(Hub):
    """A hub that tells a back end whatever an overlay makes of a twin, in reads and in queries."""

    def __init__(self, store: Store, overlays: Mapping[DeviceId, Overlay]) -> None:
        super().__init__(store, Throttles(None))
        self._overlays = overlays

    def twin_json(self, key: DeviceId) -> dict:
        document, overlay = self.truth(key), self._overlays.get(key)
        return document if overlay is None else overlay(copy.deepcopy(document))

    def truth(self, key: DeviceId) -> dict:
        return super().twin_json(key)


class CampaignHub:
    """A hub with its store on the disk.

    Attributes:
        overlays: By device, what turns the twin that a back end reads into something absurd.
    """

    def __init__(self, path: Path, clock: Callable[[], dt.datetime]) -> None:
        self._path, self._clock = path, clock
        self.overlays: dict[DeviceId, Overlay] = {}
        self._loop = asyncio.Runner()
        self._open()

    def _open(self) -> None:
        self.store = Store(self._path, hub_name="campaign", clock=self._clock)
        self.store._database.execute("PRAGMA synchronous = OFF")  # a power cut is not among the faults here
        self.hub = _OverlaidHub(self.store, self.overlays)

    def restart(self) -> None:
        """Forget everything that is not on the disk."""
        self.store.close()
        self._open()

    def close(self) -> None:
        self.store.close()
        self._loop.close()

    def enrol(self, device_id: DeviceId, tags: Mapping[str, object]) -> None:
        device = DeviceId(device_id.partition("/")[0])
        for key in dict.fromkeys((device, device_id)):
            if key not in self.store:
                self.store.create_identity(key, IdentityRequest(authentication=_AUTHENTICATION))
        self.write(device_id, {"tags": tags})

    def delete(self, device_id: DeviceId) -> None:
        self.hub.delete_identity(device_id, if_match="*")

    def knows(self, device_id: DeviceId) -> bool:
        return device_id in self.store

    def set_status(self, device_id: DeviceId, *, enabled: bool) -> None:
        status = Status.ENABLED if enabled else Status.DISABLED
        request = IdentityRequest(authentication=_AUTHENTICATION, status=status)
        self.hub.change_identity(device_id, request, if_match="*")

    def is_enabled(self, device_id: DeviceId) -> bool:
        device = DeviceId(device_id.partition("/")[0])
        return self.knows(device) and self.store.identity(device).request.status is Status.ENABLED

    def write(self, device_id: DeviceId, body: Mapping[str, object]) -> None:
        """Write as another back end does, over whatever is there."""
        self.hub.update_twin(device_id, json.loads(json.dumps(body)), if_match="*", replacing=False)

    def document(self, device_id: DeviceId) -> dict:
        """Return a twin as a back end reads it, as JSON carries it."""
        document = json.loads(json.dumps(self.hub.twin_json(device_id)))
        document.setdefault("status", "enabled" if self.is_enabled(device_id) else "disabled")
        return document

    def events(self, *, after: int, most: int) -> list[dict]:
        """Return the change events behind a number."""
        found, _ = self._loop.run(self.store.events.read(after=after, most=most, seconds=0))
        return list(found)


class HubPort(HubTwinRegistry):
    """A :class:`shared.twin.ports.TwinRegistry` of one instance: the adapter, with this hub below it.

    Args:
        campaign_hub: The hub.
        chaos: What happens to calls.
        page_size: Rows of a page.
        written: Told of each patch as it takes effect: device, twin before as a back end
            reads it, twin after.
    """

    def __init__(
        self,
        campaign_hub: CampaignHub,
        chaos: Chaos,
        *,
        page_size: int,
        written: Callable[[DeviceId, dict, dict], None],
    ) -> None:
        super().__init__(lambda: None)
        self._campaign_hub, self._chaos = campaign_hub, chaos
        self._page_size, self._written = page_size, written

    def read(self, device_id: DeviceId) -> Twin:
        document = self._ask(f"read {device_id}", lambda: self._campaign_hub.document(device_id))
        properties = document["properties"]
        return Twin(
            device_id=device_id,
            etag=document["etag"],
            status=document["status"],
            tags=document["tags"],
            desired=properties["desired"],
            reported=properties["reported"],
        )

    def patch(self, device_id: DeviceId, patch: Mapping[str, object], *, etag: str) -> None:
        hub = self._campaign_hub

        def act() -> None:
            before = hub.document(device_id)
            body = strict_json.loads(json.dumps(patch), where="body")
            hub.hub.update_twin(device_id, body, if_match=etag, replacing=False)
            self._written(device_id, before, hub.hub.truth(device_id))

        self._ask(f"patch {device_id}", act)

    def rows(self, *, token: str | None) -> RowPage:
        source, found, following = self._next(ROW_QUERIES, token, self._page_size, rows=True)
        disabled = self._disabled() if source == "modules" and found else frozenset()
        return RowPage(rows=[read_row(row, disabled) for row in found], next_token=following)

    def _query(self, text, token, size, *, rows):
        def act():
            page = self._campaign_hub.hub.query(text, page_size=size, continuation=token)
            return json.loads(json.dumps(page.items)), page.continuation

        return self._ask("query", act)

    def _ask(self, what: str, act):
        return self._chaos.call("hub", what, lambda: _translated(what, act))


def _translated(what: str, act):
    """Return what the hub answers; its refusals as the adapter tells them."""
    try:
        return act()
    except HubError as error:
        raise _TOLD.get(error.fault, _unavailable)(what, error) from error


def _unavailable(what: str, _error: HubError) -> EdbError:
    return TransportError(f"{what}: the hub is unavailable", code="hub_unavailable")


def _not_found(what: str, _error: HubError) -> EdbError:
    return NotFound(f"{what}: the hub knows no such device", code="device_not_found")


def _refused(what: str, error: HubError) -> EdbError:
    return FormatError(f"{what}: {error}", code="twin_refused")


def _conflict(what: str, _error: HubError) -> EdbError:
    return Conflict(f"{what}: the twin was changed in between", code="twin_conflict")


_TOLD = {
    Fault.DEVICE_NOT_FOUND: _not_found,
    Fault.MODULE_NOT_FOUND: _not_found,
    Fault.PRECONDITION_FAILED: _conflict,
    Fault.ARGUMENT_INVALID: _refused,
    Fault.TWIN_TOO_LARGE: _refused,
}

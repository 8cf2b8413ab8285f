"""Twins in memory, as a hub keeps them: merge patches, ETags, limits; refuses on demand."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Mapping

from shared.errors import Conflict, FormatError, NotFound
from shared.twin.ports import HolderPage, HolderRow, RowPage, Twin, TwinPage
from shared.twin.settled import row_of
from shared.types import DeviceId, KeyName

DESIRED_LIMIT = 32 * 1024


class MemoryRegistry:
    """A :class:`shared.twin.ports.TwinRegistry`.

    Attributes:
        writes: Every patch that was merged, as ``(device id, patch)``.
        faults: Errors to raise, one for each coming call of an operation: ``{"patch": [error, …]}``.
    """

    def __init__(self, *, page_size: int = 1000) -> None:
        self.writes: list[tuple[DeviceId, Mapping[str, object]]] = []
        operations = ("read", "patch", "rows", "page", "holders")
        self.faults: dict[str, list[Exception]] = {operation: [] for operation in operations}
        self._page_size = page_size
        self._documents: dict[DeviceId, dict] = {}
        self._etags = itertools.count(1)

    def enrol(self, device_id: str, *, tags: Mapping[str, object] | None = None, status: str = "enabled"):
        document = {
            "status": status,
            "tags": {},
            "desired": {"$version": 1},
            "reported": {"$version": 1, "$metadata": {}},
            "etag": self._etag(),
        }
        document["tags"].update(copy.deepcopy(dict(tags or {})))
        self._documents[DeviceId(device_id)] = document

    def disable(self, device_id: str) -> None:
        self.set_status(device_id, "disabled")

    def set_status(self, device_id: str, status: str) -> None:
        self._documents[DeviceId(device_id)]["status"] = status

    def set_etag(self, device_id: str, etag: str) -> None:
        self._documents[DeviceId(device_id)]["etag"] = etag

    def delete(self, device_id: str) -> None:
        del self._documents[DeviceId(device_id)]

    def report(self, device_id: str, patch: Mapping[str, object]) -> None:
        """Merge a patch into reported, as the device does; the ETag stays."""
        document = self._documents[DeviceId(device_id)]
        version = document["reported"]["$version"] + 1
        stamps = {name: value and {"$lastUpdated": str(version)} for name, value in patch.items()}
        document["reported"] = _merge(
            document["reported"], {**patch, "$version": version, "$metadata": stamps}
        )

    def snapshot(self, device_id: str) -> dict:
        """Return a twin without the hub's own entries."""
        document = copy.deepcopy(self._documents[DeviceId(device_id)])
        for section in ("desired", "reported"):
            document[section] = {
                name: value for name, value in document[section].items() if not name.startswith("$")
            }
        return document

    def restore(self, device_id: str, document: dict) -> None:
        for section in ("tags", "desired", "reported"):
            self.overwrite(device_id, section, document[section])

    def overwrite(self, device_id: str, section: str, value: Mapping[str, object]) -> None:
        """Replace a section behind everybody's back."""
        document = self._documents[DeviceId(device_id)]
        kept = {name: entry for name, entry in document[section].items() if name.startswith("$")}
        document[section] = {**copy.deepcopy(dict(value)), **kept}
        if "$version" in kept:
            document[section]["$version"] += 1
        document["etag"] = self._etag()

    @property
    def changes(self) -> list[tuple[DeviceId, Mapping[str, object]]]:
        """The writes that changed desired, and not tags alone."""
        return [(device_id, patch) for device_id, patch in self.writes if "properties" in patch]

    def read(self, device_id: DeviceId) -> Twin:
        self._fail("read")
        if device_id not in self._documents:
            raise NotFound(f"{device_id}: no such device", code="device_not_found")
        document = copy.deepcopy(self._documents[device_id])
        return Twin(device_id=device_id, **document)

    def patch(self, device_id: DeviceId, patch: Mapping[str, object], *, etag: str) -> None:
        self._fail("patch")
        current = self.read(device_id)
        if current.etag != etag:
            raise Conflict(f"{device_id}: the twin changed", code="twin_conflict")
        desired = dict(current.desired)
        if "properties" in patch:
            change = {**patch["properties"]["desired"], "$version": desired["$version"] + 1}
            desired = _merge(desired, change)
        tags = _merge(current.tags, patch.get("tags", {}))
        if _size(desired) > DESIRED_LIMIT:
            raise FormatError(f"{device_id}: desired exceeds {DESIRED_LIMIT} bytes")
        self._documents[device_id].update(desired=desired, tags=tags, etag=self._etag())
        self.writes.append((device_id, copy.deepcopy(patch)))

    def rows(self, *, token: str | None) -> RowPage:
        self._fail("rows")
        if token is not None and not token.isdecimal():
            raise FormatError("token: not one of this registry's")
        found = [name for name, document in self._documents.items() if _takes_part(document)]
        start = int(token or 0)
        end = start + self._page_size
        twins = [Twin(device_id=name, **copy.deepcopy(self._documents[name])) for name in found[start:end]]
        return RowPage(rows=list(map(row_of, twins)), next_token=str(end) if end < len(found) else None)

    def page(
        self, *, token: str | None, size: int, state: str | None = None, reason: str | None = None
    ) -> TwinPage:
        self._fail("page")
        if token is not None and not token.isdecimal():
            raise FormatError("token: not one of this registry's")
        if any(not re.fullmatch("[a-z0-9_]+", word) for word in (state, reason) if word is not None):
            raise FormatError("filter: expected a word")
        wanted = {key: word for key, word in (("state", state), ("reason", reason)) if word is not None}
        tagged = [
            name
            for name, twin in self._documents.items()
            if "confidential_packages" in twin["tags"]
            and wanted.items() <= dict(twin["tags"]["confidential_packages"]).items()
        ]
        start = int(token or 0)
        end = start + size
        twins = [self.read(name) for name in tagged[start:end]]
        return TwinPage(twins=twins, next_token=str(end) if end < len(tagged) else None)

    def holders(
        self,
        name: KeyName,
        *,
        token: str | None,
        size: int,
        version: int | None = None,
        state: str | None = None,
    ) -> HolderPage:
        self._fail("holders")
        if token is not None and not token.isdecimal():
            raise FormatError("token: not one of this registry's")
        if state is not None and not re.fullmatch("[a-z]+", state):
            raise FormatError("state: expected a word")
        rows = [_holder(device_id, twin, name) for device_id, twin in self._documents.items()]
        found = [row for row in rows if row is not None and _is_wanted(row, version, state)]
        start = int(token or 0)
        end = start + size
        return HolderPage(rows=found[start:end], next_token=str(end) if end < len(found) else None)

    def _fail(self, operation: str) -> None:
        if self.faults[operation]:
            raise self.faults[operation].pop(0)

    def _etag(self) -> str:
        return f"etag-{next(self._etags)}"


def _takes_part(document: dict) -> bool:
    ours = ("confidential_package_keys", "confidential_package_release")
    return "device_public_key" in document["reported"] or any(name in document["desired"] for name in ours)


def _below(value: object, *names: str) -> object:
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _holder(device_id: DeviceId, document: dict, name: KeyName) -> HolderRow | None:
    report = _below(document, "reported", "confidential_package_status", "keys", name)
    given = _below(document, "desired", "confidential_package_keys", name)
    if report is None and given is None:
        return None
    outcome = _below(document, "tags", "confidential_packages")
    return HolderRow(
        device_id=device_id,
        given_at=None if given is None else "2030-01-01T00:00:00Z",
        staged=_below(outcome, "rollout", name),
        report=report,
        outcome=_below(outcome, "state"),
    )


def _is_wanted(row: HolderRow, version: int | None, state: str | None) -> bool:
    if version is not None and version not in (_below(row.report, "ver"), row.staged):
        return False
    return state is None or _below(row.report, "state") == state


def _merge(current: Mapping[str, object], patch: Mapping[str, object]) -> dict[str, object]:
    merged = copy.deepcopy(dict(current))
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, Mapping):
            below = merged.get(name)
            merged[name] = _merge(below if isinstance(below, dict) else {}, value)
        else:
            if isinstance(value, str) and len(value.encode()) > 4096:
                raise FormatError(f"{name}: string longer than 4096 bytes")
            merged[name] = value
    return merged


def _size(value: object) -> int:
    if isinstance(value, Mapping):
        return sum(len(name.encode()) + _size(entry) for name, entry in value.items())
    return len(value.encode()) if isinstance(value, str) else 8

"""Twins in memory, as a hub keeps them: merge patches, ETags, limits; refuses on demand."""

from __future__ import annotations

import copy
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence

from shared.errors import Conflict, FormatError, NotFound
from shared.twin.ports import Twin, TwinPage
from shared.types import DeviceId

DESIRED_LIMIT = 32 * 1024


class MemoryRegistry:
    """A :class:`shared.twin.ports.TwinRegistry`.

    Attributes:
        writes: Every patch that was merged, as ``(device id, patch)``.
        faults: Errors to raise, one for each coming call of an operation: ``{"patch": [error, …]}``.
    """

    def __init__(self, *, page_size: int = 1000) -> None:
        self.writes: list[tuple[DeviceId, Mapping[str, object]]] = []
        self.faults: dict[str, list[Exception]] = {"read": [], "patch": [], "candidates": [], "page": []}
        self._page_size = page_size
        self._documents: dict[DeviceId, dict] = {}
        self._etags = itertools.count(1)

    def enrol(self, device_id: str, *, tags: Mapping[str, object] | None = None, status: str = "enabled"):
        document = {"status": status, "tags": {}, "desired": {}, "reported": {}, "etag": self._etag()}
        document["tags"].update(copy.deepcopy(dict(tags or {})))
        self._documents[DeviceId(device_id)] = document

    def delete(self, device_id: str) -> None:
        del self._documents[DeviceId(device_id)]

    def report(self, device_id: str, patch: Mapping[str, object]) -> None:
        """Merge a patch into reported, as the device does; the ETag stays."""
        document = self._documents[DeviceId(device_id)]
        document["reported"] = _merge(document["reported"], patch)

    def snapshot(self, device_id: str) -> dict:
        return copy.deepcopy(self._documents[DeviceId(device_id)])

    def restore(self, device_id: str, document: dict) -> None:
        self._documents[DeviceId(device_id)] = {**copy.deepcopy(document), "etag": self._etag()}

    def overwrite(self, device_id: str, section: str, value: Mapping[str, object]) -> None:
        """Replace a section behind everybody's back."""
        document = self._documents[DeviceId(device_id)]
        document[section] = copy.deepcopy(dict(value))
        document["etag"] = self._etag()

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
        desired = _merge(current.desired, patch.get("properties", {}).get("desired", {}))
        tags = _merge(current.tags, patch.get("tags", {}))
        if _size(desired) > DESIRED_LIMIT:
            raise FormatError(f"{device_id}: desired exceeds {DESIRED_LIMIT} bytes")
        self._documents[device_id].update(desired=desired, tags=tags, etag=self._etag())
        self.writes.append((device_id, copy.deepcopy(patch)))

    def candidates(self) -> Iterator[Sequence[DeviceId]]:
        self._fail("candidates")
        found = [name for name, document in self._documents.items() if _takes_part(document)]
        for start in range(0, len(found), self._page_size):
            yield found[start : start + self._page_size]

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

    def _fail(self, operation: str) -> None:
        if self.faults[operation]:
            raise self.faults[operation].pop(0)

    def _etag(self) -> str:
        return f"etag-{next(self._etags)}"


def _takes_part(document: dict) -> bool:
    ours = ("confidential_package_keys", "confidential_package_release")
    return "device_public_key" in document["reported"] or any(name in document["desired"] for name in ours)


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

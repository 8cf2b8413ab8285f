"""Twin documents as values: limits, merge patches, versions and metadata.

A twin holds tags, desired and reported properties. A patch merges: an object goes into the object that is
there, ``null`` deletes, anything else replaces (RFC 7396). Desired and reported each count their own
``$version``; the ETag moves with tags and desired alone. Nothing here changes a document in place: every
change returns a new one that shares what did not change, so a failed write leaves no trace.

Example::

    after = TwinDocument().patch_reported({"colour": "red"}, at=now)
    after.twin.reported.version  # 2
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field, replace
from math import isfinite
from typing import TYPE_CHECKING, TypeAlias

from local_cloud.twin_hub.faults import Fault, HubError

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Mapping

Json: TypeAlias = dict[str, object]
"""A JSON object as the twin holds it; never changed in place."""

MAX_TAGS = 8 * 1024
"""Size of all tags, by the service's formula: bytes of names and strings, number 8, boolean 4."""

MAX_PROPERTIES = 32 * 1024
"""Size of the desired and of the reported properties, each, by the same formula."""

MAX_NAME = 1024
"""UTF-8 bytes of a property's name."""

MAX_STRING = 4096
"""UTF-8 bytes of a string value."""

MAX_DEPTH = 10
"""Objects inside each other, the section itself not counted."""

MIN_INTEGER, MAX_INTEGER = -4503599627370496, 4503599627370495
"""Range of an integer value."""

_NUMBER_SIZE = 8
_BOOLEAN_SIZE = 4
_BAD_NAME = re.compile(r"[\x00-\x1f\x7f-\x9f .$#]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_SERVICE_NAMES = ("$version", "$metadata")


def service_time(at: dt.datetime) -> str:
    """Return a time as the service writes it: UTC, seven digits after the second."""
    return at.strftime("%Y-%m-%dT%H:%M:%S.%f") + "0Z"


def measure(value: object, *, where: str, depth: int = 0) -> int:
    """Return the size of a property value by the service's formula.

    Args:
        value: As read from strict JSON.
        where: The section or property, for the message.
        depth: How many objects are around it.

    Raises:
        HubError: ``ArgumentInvalid``: a name, string, number or depth that a twin cannot hold.
    """
    if isinstance(value, dict):
        return _measure_object(value, where=where, depth=depth)
    if isinstance(value, list):
        return sum(measure(item, where=f"{where}/{n}", depth=depth + 1) for n, item in enumerate(value))
    if isinstance(value, str):
        if len(value.encode()) > MAX_STRING:
            raise _invalid(f"{where}: string longer than {MAX_STRING} bytes")
        return len(_CONTROL.sub("", value).encode())
    if isinstance(value, bool):
        return _BOOLEAN_SIZE
    if isinstance(value, int) and not MIN_INTEGER <= value <= MAX_INTEGER:
        raise _invalid(f"{where}: integer outside {MIN_INTEGER} to {MAX_INTEGER}")
    if isinstance(value, float) and not isfinite(value):
        raise _invalid(f"{where}: number out of range")
    return 0 if value is None else _NUMBER_SIZE


def _measure_object(value: Json, *, where: str, depth: int) -> int:
    if depth > MAX_DEPTH:
        raise _invalid(f"{where}: objects deeper than {MAX_DEPTH}")
    size = 0
    for name, below in value.items():
        length = len(name.encode())
        if not 0 < length <= MAX_NAME or _BAD_NAME.search(name):
            raise _invalid(
                f"{where}: expected a name of 1 to {MAX_NAME} bytes without control characters, "
                f"'.', '$', '#' or space, found {name[:64]!r}"
            )
        size += length + measure(below, where=f"{where}/{name[:64]}", depth=depth + 1)
    return size


def merge(document: Mapping[str, object], patch: Mapping[str, object]) -> Json:
    """Return ``document`` with a merge patch applied."""
    merged = dict(document)
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict):
            below = merged.get(name)
            merged[name] = merge(below if isinstance(below, dict) else {}, value)
        else:
            merged[name] = value
    return merged


def _merge_metadata(metadata: Mapping[str, object], patch: Mapping[str, object], stamp: Json) -> Json:
    """Return the metadata of a document after ``patch``: each touched name carries ``stamp``."""
    merged = {**metadata, **stamp}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, dict):
            below = merged.get(name)
            merged[name] = _merge_metadata(below if isinstance(below, dict) else {}, value, stamp)
        else:
            merged[name] = stamp
    return merged


def _patch_metadata(patch: Mapping[str, object], stamp: Json) -> Json:
    """Return the metadata that goes with a patch in an event: deleted names are stamped, too."""
    below = {
        name: _patch_metadata(value, stamp) if isinstance(value, dict) else stamp
        for name, value in patch.items()
    }
    return {**stamp, **below}


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Desired or reported properties with their version and metadata."""

    values: Json = field(default_factory=dict)
    metadata: Json = field(default_factory=dict)
    version: int = 1

    def patched(self, patch: Json, stamp: Json, *, name: str) -> Section:
        """Return the section after a patch, one version on.

        Raises:
            HubError: The patch or the outcome breaks a limit.
        """
        values = _within(merge(self.values, patch), patch, limit=MAX_PROPERTIES, name=name)
        metadata = _merge_metadata(self.metadata, patch, stamp)
        return Section(values=values, metadata=metadata, version=self.version + 1)

    def as_device_sees(self) -> Json:
        """Return the values with their version."""
        return {**self.values, "$version": self.version}

    def as_service_sees(self) -> Json:
        """Return the values with metadata and version."""
        return {**self.values, "$metadata": self.metadata, "$version": self.version}


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinUpdate:
    """What a back end wants changed; ``None`` leaves the section alone."""

    tags: Json | None
    desired: Json | None

    @classmethod
    def parse(cls, body: object, *, replacing: bool) -> TwinUpdate:
        """Read the body of a twin PATCH or PUT; what the service itself writes is ignored.

        Raises:
            HubError: Not an object, a section that is none, or reported properties in a patch.
        """
        document = _section(body, where="twin")
        properties = _section(document.get("properties"), where="properties")
        reported = _section(properties.get("reported"), where="properties/reported")
        if reported and not replacing:
            raise _invalid("properties/reported: only the device writes them")
        tags, desired = document.get("tags"), properties.get("desired")
        return cls(
            tags=None if tags is None else _section(tags, where="tags"),
            desired=None if desired is None else _section(desired, where="properties/desired"),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinChange:
    """The outcome of a write: the new twin, what the change event says, what the device is pushed."""

    twin: TwinDocument
    event: Json
    pushed: Json | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinDocument:
    """One twin's whole state."""

    tags: Json = field(default_factory=dict)
    desired: Section = field(default_factory=Section)
    reported: Section = field(default_factory=Section)
    revision: int = 1
    version: int = 2

    @property
    def etag(self) -> str:
        """The ETag: moves with every write of tags or desired properties."""
        return base64.b64encode(self.revision.to_bytes(8, "big")).decode("ascii")

    def patch_reported(self, patch: object, *, at: dt.datetime) -> TwinChange:
        """Apply what a device reports.

        Raises:
            HubError: Not an object, or a limit is broken.
        """
        values = _section(patch, where="reported")
        stamp: Json = {"$lastUpdated": service_time(at)}
        reported = self.reported.patched(values, stamp, name="reported")
        twin = replace(self, reported=reported, version=self.version + 1)
        said = {**values, "$metadata": _patch_metadata(values, stamp), "$version": reported.version}
        return TwinChange(twin=twin, event={"version": twin.version, "properties": {"reported": said}})

    def update(self, update: TwinUpdate, *, at: dt.datetime, replacing: bool) -> TwinChange:
        """Apply what a back end writes; ``replacing`` drops what a given section held before.

        Raises:
            HubError: A limit is broken.
        """
        twin = replace(self, revision=self.revision + 1, version=self.version + 1)
        event: Json = {"version": twin.version}
        pushed: Json | None = None
        if update.tags is not None:
            before = {} if replacing else self.tags
            tags = _within(merge(before, update.tags), update.tags, limit=MAX_TAGS, name="tags")
            twin = replace(twin, tags=tags)
            event["tags"] = update.tags
        if update.desired is not None:
            version = self.desired.version + 1
            stamp: Json = {"$lastUpdated": service_time(at), "$lastUpdatedVersion": version}
            base = Section(version=self.desired.version) if replacing else self.desired
            desired = base.patched(update.desired, stamp, name="desired")
            twin = replace(twin, desired=desired)
            metadata = _patch_metadata(update.desired, stamp)
            event["properties"] = {"desired": {**update.desired, "$metadata": metadata, "$version": version}}
            pushed = {**(desired.values if replacing else update.desired), "$version": version}
        return TwinChange(twin=twin, event=event, pushed=pushed)


def _within(outcome: Json, patch: Json, *, limit: int, name: str) -> Json:
    """Return ``outcome`` if the patch is well formed and the outcome fits."""
    measure(patch, where=name)
    size = measure(outcome, where=name)
    if size > limit:
        raise HubError(Fault.TWIN_TOO_LARGE, f"{name}: expected at most {limit} bytes, found {size}")
    return outcome


def _section(value: object, *, where: str) -> Json:
    """Return an object without the names that only the service writes; ``None`` is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _invalid(f"{where}: expected an object, found {type(value).__name__}")
    return {name: below for name, below in value.items() if name not in _SERVICE_NAMES}


def _invalid(message: str) -> HubError:
    return HubError(Fault.ARGUMENT_INVALID, message)

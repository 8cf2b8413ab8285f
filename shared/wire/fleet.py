"""JSON of the reading contracts: class keys and devices, page by page; never key material."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shared.wire import request_fields as read
from shared.wire import values
from shared.wire.objects import list_of, map_of, object_of, read_object, wire
from shared.wire.request_fields import Fields
from shared.wire.rollout import RolloutDescription

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared.types import DeviceId, Fingerprint, KeyName

DEFAULT_PAGE = 100
"""Entries of a page where the caller asks for no size."""

VERSION_STATES = ("active", "revoked", "aborted", "disabled", "expired", "not_yet_valid")
OUTCOME_STATES = ("released", "denied", "over_budget", "quarantined")


@dataclass(frozen=True, slots=True, kw_only=True)
class KeysQuery:
    """Query of ``GET /api/keys``."""

    page_size: int = field(
        default=DEFAULT_PAGE, metadata=wire(values.PAGE_SIZE, f"Keys of a page; {DEFAULT_PAGE} by default.")
    )
    token: str | None = field(
        default=None, metadata=wire(values.PAGE_TOKEN, "The next_token of the page before.")
    )
    prefix: str | None = field(
        default=None, metadata=wire(values.KEY_PREFIX, "Only keys whose names begin so.")
    )

    @classmethod
    def parse(cls, parameters: Mapping[str, str]) -> KeysQuery:
        """Read the query.

        Raises:
            FormatError: :class:`shared.wire.request_fields.InvalidRequestError` with every fault.
        """
        return read_object(cls, Fields.of_query(parameters))


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyVersion:
    """One version of a class key."""

    version: int = field(metadata=wire(values.VERSION, "The version."))
    state: str = field(
        metadata=wire(
            values.one_of(*VERSION_STATES), "Whether it may be wrapped (active), and if not, why not."
        )
    )
    created_at: str = field(metadata=wire(values.TIME, "When it was made."))
    expires_at: str | None = field(default=None, metadata=wire(values.TIME, "When it expires, if it does."))


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyDescription:
    """What is told of a class key."""

    key_name: KeyName = field(metadata=wire(values.KEY_NAME, "Its name."))
    version: int = field(metadata=wire(values.VERSION, "Its newest version."))
    floor: int = field(metadata=wire(values.FLOOR, "The lowest version that may still be wrapped."))
    algorithm: str = field(default=read.KEY_ALGORITHM, metadata=wire(values.KEY_ALGORITHM, "What it is for."))
    bits: int = field(metadata=wire(values.STRENGTH_TEXT, "Strength in bits.", name="strength"))
    versions: tuple[KeyVersion, ...] = field(
        metadata=wire(list_of(KeyVersion), "Its versions, the oldest first; of more than 100 the newest 100.")
    )
    rollout: RolloutDescription | None = field(
        default=None,
        metadata=wire(object_of(RolloutDescription), "How the newest version goes to the fleet in stages."),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyPage:
    """200 of ``GET /api/keys``."""

    keys: tuple[KeyDescription, ...] = field(
        metadata=wire(list_of(KeyDescription), "Class keys, in the order of their names.")
    )
    next_token: str | None = field(
        default=None, metadata=wire(values.PAGE_TOKEN, "Asks for the next page; missing on the last one.")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicesQuery:
    """Query of ``GET /api/devices``."""

    page_size: int = field(
        default=DEFAULT_PAGE,
        metadata=wire(values.PAGE_SIZE, f"Devices looked at for a page; {DEFAULT_PAGE} by default."),
    )
    token: str | None = field(
        default=None, metadata=wire(values.PAGE_TOKEN, "The next_token of the page before.")
    )
    state: str | None = field(
        default=None, metadata=wire(values.one_of(*OUTCOME_STATES), "Only devices in this state.")
    )
    reason: str | None = field(
        default=None, metadata=wire(values.CODE, "Only devices with this reason of their state.")
    )
    key: KeyName | None = field(
        default=None, metadata=wire(values.KEY_NAME, "Only devices that were released this class key.")
    )

    @classmethod
    def parse(cls, parameters: Mapping[str, str]) -> DevicesQuery:
        """Read the query.

        Raises:
            FormatError: :class:`shared.wire.request_fields.InvalidRequestError` with every fault.
        """
        return read_object(cls, Fields.of_query(parameters))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileRequest:
    """``POST /api/ReconcileDevices``: have some devices looked at now."""

    device_ids: tuple[DeviceId, ...] = field(
        metadata=wire(values.DEVICE_IDS, "Device ids, or device/module; one that is named twice counts once.")
    )

    @classmethod
    def parse(cls, body: bytes) -> ReconcileRequest:
        """Read the body.

        Raises:
            FormatError: :class:`shared.wire.request_fields.InvalidRequestError` with every fault.
        """
        return read_object(cls, Fields(body))


@dataclass(frozen=True, slots=True, kw_only=True)
class ReconcileAnswer:
    """200 of ReconcileDevices."""

    devices: int = field(metadata=wire(values.COUNT, "How many were put on the queue."))


@dataclass(frozen=True, slots=True, kw_only=True)
class RebindRequest:
    """``POST /api/RebindDevice``: bind a device's id to the key that it reports now."""

    device_id: DeviceId = field(metadata=wire(values.DEVICE_OR_MODULE_ID, "Device id, or device/module."))
    fingerprint: Fingerprint = field(
        metadata=wire(values.FINGERPRINT, "SHA-256 over that public key, as the device itself shows it.")
    )

    @classmethod
    def parse(cls, body: bytes) -> RebindRequest:
        """Read the body.

        Raises:
            FormatError: :class:`shared.wire.request_fields.InvalidRequestError` with every fault.
        """
        return read_object(cls, Fields(body))


@dataclass(frozen=True, slots=True, kw_only=True)
class RebindAnswer:
    """200 of RebindDevice."""

    device_id: DeviceId = field(metadata=wire(values.TEXT, "Device id, or device/module."))
    fingerprint: str = field(metadata=wire(values.DIGEST, "The key that its next release binds it to."))
    replaces: str | None = field(
        metadata=wire(values.nullable(values.DIGEST), "The key until now; null if it was that key already.")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseDescription:
    """The release that a device's desired properties hold."""

    sequence: int = field(metadata=wire(values.COUNT, "Its sequence."))
    fingerprint: str = field(
        metadata=wire(values.DIGEST, "SHA-256 over the public key that it is for, and binds the device to.")
    )
    issued_at: str = field(metadata=wire(values.TIME, "When it was signed."))
    expires_at: str = field(metadata=wire(values.TIME, "When it ends."))
    keys: Mapping[str, int] = field(metadata=wire(map_of(values.VERSION), "Class keys and their versions."))
    floors: Mapping[str, int] = field(metadata=wire(map_of(values.FLOOR), "Lowest versions allowed."))
    policy_sha256: str = field(metadata=wire(values.DIGEST, "The policy that it was made under."))


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyReportDescription:
    """What a device reports of one class key."""

    version: int = field(metadata=wire(values.COUNT, "The version."))
    state: str = field(metadata=wire(values.TEXT, "What became of it."))
    error: str | None = field(metadata=wire(values.nullable(values.TEXT), "Why it was refused."))


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageReportDescription:
    """What a device reports of one package."""

    version: str = field(metadata=wire(values.TEXT, "The package's version."))
    state: str = field(metadata=wire(values.TEXT, "What became of it."))


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusDescription:
    """What a device reports."""

    sequence: int = field(metadata=wire(values.COUNT, "The release that it applied last."))
    fingerprint: str = field(metadata=wire(values.DIGEST, "SHA-256 over the key that its status is about."))
    keys: Mapping[str, KeyReportDescription] = field(
        metadata=wire(map_of(object_of(KeyReportDescription)), "Class keys by name.")
    )
    packages: Mapping[str, PackageReportDescription] = field(
        metadata=wire(map_of(object_of(PackageReportDescription)), "Packages by id.")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceDescription:
    """What the fleet's operator sees of a device."""

    device_id: DeviceId = field(metadata=wire(values.TEXT, "Device id, or device/module."))
    status: str = field(metadata=wire(values.TEXT, "Whether the hub lets it in."))
    state: str | None = field(
        metadata=wire(values.nullable(values.TEXT), "The outcome, as the twin's tag tells it.")
    )
    reason: str | None = field(metadata=wire(values.nullable(values.TEXT), "Why."))
    at: str | None = field(metadata=wire(values.nullable(values.TEXT), "Since when."))
    released: ReleaseDescription | None = field(
        metadata=wire(values.nullable(object_of(ReleaseDescription)), "The release that it was given.")
    )
    reported: StatusDescription | None = field(
        metadata=wire(values.nullable(object_of(StatusDescription)), "What it reports, if it is readable.")
    )
    reported_key: str | None = field(
        metadata=wire(
            values.nullable(values.DIGEST), "SHA-256 over the public key that it reports, if it is readable."
        )
    )
    stale: bool = field(metadata=wire(values.FLAG, "Not acknowledged for 24 hours."))


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePage:
    """200 of ``GET /api/devices``."""

    devices: tuple[DeviceDescription, ...] = field(
        metadata=wire(list_of(DeviceDescription), "Devices; fewer than asked for where a filter is given.")
    )
    next_token: str | None = field(
        default=None, metadata=wire(values.PAGE_TOKEN, "Asks for the next page; missing on the last one.")
    )

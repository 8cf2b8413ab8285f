"""Keys and Devices: what was released to whom, and what was refused and why; never key material."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from functions.contract import Call, Contract, HttpFunctions, Tag
from functions.paging import text_of, token_of_query
from shared.errors import FormatError
from shared.keys.store import ALGORITHM_BITS, ClassKeyState, ClassKeyVersion
from shared.twin.documents import OUTCOME_TAG, ReportedStatus, parse_public_key, parse_status
from shared.twin.held import read_held
from shared.types import parse_device_id, parse_key_name
from shared.wire import values
from shared.wire.fleet import (
    DeviceDescription,
    DevicePage,
    DevicesQuery,
    KeyDescription,
    KeyPage,
    KeyReportDescription,
    KeysQuery,
    KeyVersion,
    PackageReportDescription,
    ReleaseDescription,
    StatusDescription,
)
from shared.wire.rollout import RolloutDescription

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cryptography.hazmat.primitives.asymmetric import ec

    from functions.services import Services
    from shared.release.document import Release
    from shared.twin.ports import Twin
    from shared.types import KeyName

STALE_SECONDS = 24 * 3600
"""A release that was not acknowledged for so long is shown as stale."""

_TIME = "%Y-%m-%dT%H:%M:%SZ"
MAX_VERSIONS = 100
"""How many versions of a class key are shown at most."""

KEYS = Contract(
    name="Keys",
    method="GET",
    route="keys",
    tag=Tag.READING,
    summary="Class keys, page by page",
    query=KeysQuery,
    answer=KeyPage,
    problems=("token_invalid",),
)
KEY = Contract(
    name="Key",
    method="GET",
    route="keys/{key_name}",
    tag=Tag.READING,
    summary="One class key",
    path={"key_name": values.KEY_NAME},
    answer=KeyDescription,
    problems=("name_invalid", "key_not_found", "name_taken"),
)
DEVICES = Contract(
    name="Devices",
    method="GET",
    route="devices",
    tag=Tag.READING,
    summary="Devices and modules with an outcome, page by page",
    query=DevicesQuery,
    answer=DevicePage,
    problems=("token_invalid",),
)
DEVICE = Contract(
    name="Device",
    method="GET",
    route="devices/{device_id}",
    tag=Tag.READING,
    summary="One device",
    path={"device_id": values.DEVICE_ID},
    answer=DeviceDescription,
    problems=("malformed", "device_not_found"),
)
DEVICE_MODULE = Contract(
    name="DeviceModule",
    method="GET",
    route="devices/{device_id}/{module_id}",
    tag=Tag.READING,
    summary="One module of a device",
    path={"device_id": values.DEVICE_ID, "module_id": values.DEVICE_ID},
    answer=DeviceDescription,
    problems=("malformed", "device_not_found"),
)


def blueprint(services: Callable[[], Services]) -> HttpFunctions:
    """Return the functions.

    Args:
        services: Puts the services together at the first call.
    """
    functions = HttpFunctions()

    @functions.serve(KEYS)
    def keys(call: Call) -> KeyPage:
        return _keys(services(), KeysQuery.parse(call.query))

    @functions.serve(KEY)
    def key(call: Call) -> KeyDescription:
        name = parse_key_name(call.route.get("key_name"), where="route")
        return describe_key(name, services().class_keys.state(name))

    @functions.serve(DEVICES)
    def devices(call: Call) -> DevicePage:
        return _devices(services(), DevicesQuery.parse(call.query))

    @functions.serve(DEVICE)
    def device(call: Call) -> DeviceDescription:
        return _device(services(), call.route.get("device_id"))

    @functions.serve(DEVICE_MODULE)
    def device_module(call: Call) -> DeviceDescription:
        return _device(services(), f"{call.route.get('device_id')}/{call.route.get('module_id')}")

    return functions


def _keys(services: Services, asked: KeysQuery) -> KeyPage:
    """Return the keys that follow the token, which is the name of the last key before them."""
    after = "" if asked.token is None else _key_token(asked.token)
    states = services.class_keys.states()
    prefix = asked.prefix or ""
    names = sorted(name for name in states if name > after and name.startswith(prefix))
    page = names[: asked.page_size]
    return KeyPage(
        keys=tuple(describe_key(name, states[name]) for name in page),
        next_token=page[-1] if len(names) > len(page) else None,
    )


def _key_token(token: str) -> KeyName:
    try:
        return parse_key_name(token, where="token")
    except FormatError as error:
        raise FormatError("token: not one that a page of keys told", code="token_invalid") from error


def describe_key(name: KeyName, state: ClassKeyState) -> KeyDescription:
    """Return what is told of a class key."""
    latest = state.versions[-1]
    # What was revoked on its way is over, though nobody moved it.
    rollout = None if latest.is_staged and state.unfinished is None else latest.rollout
    return KeyDescription(
        key_name=name,
        version=state.latest,
        floor=state.floor,
        bits=ALGORITHM_BITS[state.algorithm],
        versions=tuple(_describe_version(each) for each in state.versions[-MAX_VERSIONS:]),
        rollout=None if rollout is None else RolloutDescription.of(state.latest, rollout),
    )


def _describe_version(version: ClassKeyVersion) -> KeyVersion:
    return KeyVersion(
        version=version.version,
        state=version.state.value,
        created_at=f"{version.created_at:{_TIME}}",
        expires_at=None if version.expires_at is None else f"{version.expires_at:{_TIME}}",
    )


def _devices(services: Services, asked: DevicesQuery) -> DevicePage:
    with token_of_query(asked.token):
        page = services.registry.page(
            token=asked.token, size=asked.page_size, state=asked.state, reason=asked.reason
        )
    release_keys, now = services.signer.public_keys(), services.now()
    described = (describe_device(twin, release_keys, now=now) for twin in page.twins)
    return DevicePage(
        devices=tuple(each for each in described if asked.key is None or _holds(each, asked.key)),
        next_token=page.next_token,
    )


def _holds(device: DeviceDescription, key: KeyName) -> bool:
    """Say whether a device was released a class key; the release is opaque to the hub's queries."""
    return device.released is not None and key in device.released.keys


def _device(services: Services, text: str | None) -> DeviceDescription:
    twin = services.registry.read(parse_device_id(text, where="route"))
    return describe_device(twin, services.signer.public_keys(), now=services.now())


def describe_device(
    twin: Twin, release_keys: Sequence[ec.EllipticCurvePublicKey], *, now: datetime
) -> DeviceDescription:
    """Return what the fleet's operator sees of a device.

    Args:
        twin: Its twin.
        release_keys: Whose releases still hold.
        now: Aware; tells what is stale.
    """
    tag = twin.tags.get(OUTCOME_TAG)
    outcome = tag if isinstance(tag, Mapping) else {}
    release = read_held(twin, release_keys).release
    try:
        status = parse_status(twin.reported)
    except FormatError:
        status = None
    return DeviceDescription(
        device_id=twin.device_id,
        status=twin.status,
        state=text_of(outcome.get("state")),
        reason=text_of(outcome.get("reason")),
        at=text_of(outcome.get("at")),
        released=None if release is None else _describe_release(release),
        reported=None if status is None else _describe_status(status),
        reported_key=_reported_key(twin),
        stale=_is_stale(release, status, now=now),
    )


def _reported_key(twin: Twin) -> str | None:
    try:
        public_key = parse_public_key(twin.reported)
    except FormatError:
        return None
    return None if public_key is None else public_key.fingerprint.hex()


def _describe_release(release: Release) -> ReleaseDescription:
    return ReleaseDescription(
        sequence=release.sequence,
        fingerprint=release.fingerprint.hex(),
        issued_at=_time(release.issued_at),
        expires_at=_time(release.expires_at),
        keys={name: key.version for name, key in release.keys.items()},
        floors={str(name): floor for name, floor in release.floors.items()},
        policy_sha256=release.policy_sha256.hex(),
    )


def _describe_status(status: ReportedStatus) -> StatusDescription:
    return StatusDescription(
        sequence=status.sequence,
        fingerprint=status.fingerprint.hex(),
        keys={
            name: KeyReportDescription(version=report.version, state=report.state, error=report.error)
            for name, report in status.keys.items()
        },
        packages={
            name: PackageReportDescription(version=report.version, state=report.state)
            for name, report in status.packages.items()
        },
    )


def _is_stale(release: Release | None, status: ReportedStatus | None, *, now: datetime) -> bool:
    if release is None:
        return False
    acknowledged = 0 if status is None else status.sequence
    return acknowledged < release.sequence and now.timestamp() > release.issued_at + STALE_SECONDS


def _time(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):{_TIME}}"

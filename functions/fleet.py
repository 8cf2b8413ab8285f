"""Keys and Devices: what was released to whom, and what was refused and why; never key material."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import azure.functions as func

from functions.endpoint import Answer, respond
from shared.errors import FormatError
from shared.keys.store import ALGORITHM_BITS, ClassKeyState
from shared.twin.documents import OUTCOME_TAG, ReportedStatus, parse_status
from shared.twin.held import read_held
from shared.types import KeyName, parse_device_id, parse_key_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cryptography.hazmat.primitives.asymmetric import ec

    from functions.services import Services
    from shared.release.document import Release
    from shared.twin.ports import Twin

STALE_SECONDS = 24 * 3600
"""A release that was not acknowledged for so long is shown as stale."""

DEFAULT_PAGE, MAX_PAGE = 100, 1000

_AUTH = func.AuthLevel.FUNCTION


def blueprint(services: Callable[[], Services]) -> func.Blueprint:
    """Return the functions.

    Args:
        services: Puts the services together at the first call.
    """
    functions = func.Blueprint()  # type: ignore[no-untyped-call] # the SDK leaves it untyped

    @functions.function_name(name="Keys")
    @functions.route(route="keys", methods=["GET"], auth_level=_AUTH)
    def keys(req: func.HttpRequest) -> func.HttpResponse:
        return respond(req, lambda _: _keys(services()))

    @functions.function_name(name="Key")
    @functions.route(route="keys/{key_name}", methods=["GET"], auth_level=_AUTH)
    def key(req: func.HttpRequest) -> func.HttpResponse:
        return respond(req, lambda _: _key(services(), req))

    @functions.function_name(name="Devices")
    @functions.route(route="devices", methods=["GET"], auth_level=_AUTH)
    def devices(req: func.HttpRequest) -> func.HttpResponse:
        return respond(req, lambda _: _devices(services(), req))

    @functions.function_name(name="Device")
    @functions.route(route="devices/{device_id}/{module_id?}", methods=["GET"], auth_level=_AUTH)
    def device(req: func.HttpRequest) -> func.HttpResponse:
        return respond(req, lambda _: _device(services(), req))

    return functions


def _keys(services: Services) -> Answer:
    states = services.class_keys.states()
    return Answer(document={"keys": [_describe_key(name, state) for name, state in sorted(states.items())]})


def _key(services: Services, req: func.HttpRequest) -> Answer:
    name = parse_key_name(req.route_params.get("key_name"), where="route")
    return Answer(document=_describe_key(name, services.class_keys.state(name)))


def _describe_key(name: KeyName, state: ClassKeyState) -> dict[str, object]:
    return {
        "key_name": name,
        "version": state.latest,
        "floor": state.floor,
        "algorithm": "aes-gcm",
        "strength": str(ALGORITHM_BITS[state.algorithm]),
    }


def _devices(services: Services, req: func.HttpRequest) -> Answer:
    """Return one page; ``?page_size=`` and ``?token=`` of the page before lead through all."""
    size = req.params.get("page_size", str(DEFAULT_PAGE))
    if not size.isdecimal() or not 1 <= int(size[:8]) <= MAX_PAGE:
        raise FormatError(f"page_size: expected 1 to {MAX_PAGE}, found {size[:32]!r}")
    page = services.registry.page(token=req.params.get("token"), size=int(size))
    release_keys, now = services.signer.public_keys(), services.now()
    document: dict[str, object] = {
        "devices": [describe_device(twin, release_keys, now=now) for twin in page.twins]
    }
    if page.next_token is not None:
        document["next_token"] = page.next_token
    return Answer(document=document)


def _device(services: Services, req: func.HttpRequest) -> Answer:
    module = req.route_params.get("module_id")
    device = req.route_params.get("device_id")
    device_id = parse_device_id(f"{device}/{module}" if module else device, where="route")
    twin = services.registry.read(device_id)
    release_keys = services.signer.public_keys()
    return Answer(document=describe_device(twin, release_keys, now=services.now()))


def describe_device(
    twin: Twin, release_keys: Sequence[ec.EllipticCurvePublicKey], *, now: datetime
) -> dict[str, object]:
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
    return {
        "device_id": twin.device_id,
        "status": twin.status,
        "state": outcome.get("state"),
        "reason": outcome.get("reason"),
        "at": outcome.get("at"),
        "released": None if release is None else _describe_release(release),
        "reported": None if status is None else _describe_status(status),
        "stale": _is_stale(release, status, now=now),
    }


def _describe_release(release: Release) -> dict[str, object]:
    return {
        "sequence": release.sequence,
        "issued_at": _time(release.issued_at),
        "expires_at": _time(release.expires_at),
        "keys": {name: key.version for name, key in release.keys.items()},
        "floors": dict(release.floors),
        "policy_sha256": release.policy_sha256.hex(),
    }


def _describe_status(status: ReportedStatus) -> dict[str, object]:
    return {
        "sequence": status.sequence,
        "fingerprint": status.fingerprint.hex(),
        "keys": {
            name: {"version": report.version, "state": report.state, "error": report.error}
            for name, report in status.keys.items()
        },
        "packages": {
            name: {"version": report.version, "state": report.state}
            for name, report in status.packages.items()
        },
    }


def _is_stale(release: Release | None, status: ReportedStatus | None, *, now: datetime) -> bool:
    if release is None:
        return False
    acknowledged = 0 if status is None else status.sequence
    return acknowledged < release.sequence and now.timestamp() > release.issued_at + STALE_SECONDS


def _time(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"

"""The topics of a device: what it may subscribe to, and what a message to the hub asks for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import parse_qs

from local_cloud.twin_hub.hub import DESIRED_PATCHES, METHOD_CALLS, TWIN_RESPONSES
from shared.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Collection

    from shared.types import DeviceId

MAX_REQUEST_ID = 128
"""Characters of a ``$rid``."""

_MAX_STATUS = 6  # digits
_TWIN_GET = "$iothub/twin/GET/"
_TWIN_PATCH = "$iothub/twin/PATCH/properties/reported/"
_METHOD_RESULT = "$iothub/methods/res/"


@dataclass(frozen=True, slots=True, kw_only=True)
class GetTwin:
    """The device wants its twin."""

    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PatchReported:
    """The device reports properties."""

    request_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MethodAnswer:
    """The device answers a direct method."""

    request_id: str
    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """The device sends a message."""


Request: TypeAlias = GetTwin | PatchReported | MethodAnswer | Telemetry


def allowed_filters(key: DeviceId) -> Collection[str]:
    """Return the topic filters that a device may subscribe to; all but its own messages carry no id."""
    base = _base(key)
    own = (f"{base}messages/devicebound/#", f"{base}inputs/#")
    return {TWIN_RESPONSES, DESIRED_PATCHES, METHOD_CALLS, *own}


def parse_topic(topic: str, *, key: DeviceId) -> Request:
    """Return what a message on ``topic`` from the device ``key`` asks for.

    Raises:
        FormatError: The device may not publish there.
    """
    head, _, query = topic.partition("?")
    if head == _TWIN_GET:
        return GetTwin(request_id=_request_id(query))
    if head == _TWIN_PATCH:
        return PatchReported(request_id=_request_id(query))
    if head.startswith(_METHOD_RESULT):
        status = head.removeprefix(_METHOD_RESULT).rstrip("/")
        if not status.isascii() or not status.lstrip("-").isdigit() or len(status) > _MAX_STATUS:
            raise FormatError("topic: expected the status of a direct method as a number")
        return MethodAnswer(request_id=_request_id(query), status=int(status))
    if topic.startswith(f"{_base(key)}messages/events/"):
        return Telemetry()
    raise FormatError(f"topic: {topic[:64]!r} is not this device's to publish")


def _request_id(query: str) -> str:
    try:
        (request_id,) = parse_qs(query, max_num_fields=8).get("$rid", [""])
    except ValueError as error:
        raise FormatError("topic: expected one $rid") from error
    if len(request_id) > MAX_REQUEST_ID:
        raise FormatError(f"topic: expected a $rid of at most {MAX_REQUEST_ID} characters")
    return request_id


def _base(key: DeviceId) -> str:
    device, _, module = key.partition("/")
    return f"devices/{device}/" + (f"modules/{module}/" if module else "")

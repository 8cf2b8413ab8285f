"""The service endpoint: HTTPS as ``azure-iot-hub`` speaks it, api-version 2021-04-12.

Every request is authorized before anything else of it is looked at. Routes are in :mod:`rest_identities` and
:mod:`rest_twins`; here stand what they share, and errors as the service words them.
"""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from aiohttp import web

from local_cloud.twin_hub.faults import Fault, HubError
from local_cloud.twin_hub.store import ANY
from shared import strict_json
from shared.errors import FormatError, StorageError
from shared.types import parse_device_id

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from aiohttp.typedefs import Middleware

    from local_cloud.twin_hub.documents import Json
    from local_cloud.twin_hub.service_authorization import ServiceAuthorizer
    from shared.types import DeviceId

API_VERSION = "2021-04-12"
"""The one version of the service's interface that is spoken."""

MAX_BODY = 1 << 20
"""Bytes of a request's body: a bulk call of 100 identities with tags and properties."""


def guard(authorizer: ServiceAuthorizer, *, retry_after: int) -> Middleware:
    """Return the middleware that authorizes every request and words every refusal.

    Args:
        authorizer: Knows who may come in.
        retry_after: Seconds that a throttled caller is asked to wait.
    """

    @web.middleware
    async def middleware(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            authorizer.check(request.headers.get("Authorization", ""))
            _check_version(request)
            return await handler(request)
        except HubError as error:
            refusal = _refusal(error.fault, str(error))
            if error.fault is Fault.THROTTLED:
                refusal.headers["Retry-After"] = str(retry_after)
            return refusal
        except FormatError as error:
            return _refusal(Fault.ARGUMENT_INVALID, str(error))
        except StorageError:
            return _refusal(Fault.UNAVAILABLE, "the hub cannot write")

    return middleware


def key_of(request: web.Request) -> DeviceId:
    """Return the identity that a path names.

    Raises:
        FormatError: It is no id.
    """
    device, module = request.match_info["device"], request.match_info.get("module")
    for part in (device, module or device):
        if "/" in part:
            raise FormatError("path: expected an id without '/'")
    return parse_device_id(device if module is None else f"{device}/{module}", where="path")


async def body_of(request: web.Request) -> object:
    """Return the JSON body.

    Raises:
        FormatError: It is no strict JSON.
    """
    return strict_json.loads(await request.read(), where="body")


async def object_of(request: web.Request) -> Json:
    """Return the JSON body, an object.

    Raises:
        FormatError: It is none.
    """
    body = await body_of(request)
    if not isinstance(body, dict):
        raise FormatError(f"body: expected an object, found {type(body).__name__}")
    return body


def if_match(request: web.Request) -> str | None:
    """Return the ETag that a request is bound to, without quotes; ``None`` if it names none."""
    value = request.headers.get("If-Match")
    return None if value is None else bare_etag(value)


def bare_etag(value: str) -> str:
    """Return an ETag without its quotes; the wildcard comes quoted, too."""
    return value.strip().removeprefix("W/").strip('"') or ANY


def count_of(text: str | None, *, default: int, most: int, where: str) -> int:
    """Return a number of a request, from 0 to ``most``; what is above counts as ``most``.

    Raises:
        FormatError: It is no number.
    """
    if text is None or text == "":
        return default
    if not text.isascii() or not text.isdigit() or len(text) > 18:  # noqa: PLR2004 - fits 64 bits
        raise FormatError(f"{where}: expected a number, found {text[:32]!r}")
    return min(int(text), most)


def answer(
    document: object, *, etag: object = None, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """Return a JSON response, with its ETag in quotes if it has one."""
    named = {"ETag": f'"{etag}"'} if etag is not None else {}
    return web.json_response(document, status=status, headers={**named, **(headers or {})})


def _check_version(request: web.Request) -> None:
    """Refuse another version of the service's interface; what is local has none."""
    if not request.path.startswith("/local/") and request.query.get("api-version") != API_VERSION:
        raise HubError(Fault.ARGUMENT_INVALID, f"expected api-version={API_VERSION}")


def _refusal(fault: Fault, message: str) -> web.Response:
    tracking = uuid.uuid4().hex
    headers = {"iothub-errorcode": fault.name_on_wire, "x-ms-request-id": tracking}
    body = {
        "Message": f"ErrorCode:{fault.name_on_wire};{message}",
        "ExceptionMessage": f"Tracking ID:{tracking}",
    }
    return web.json_response(body, status=fault.status, headers=headers)

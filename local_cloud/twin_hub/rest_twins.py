"""Service routes of twins: read, patch, replace, query, direct methods; and the local feed of changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from local_cloud.twin_hub.hub import MAX_METHOD_SECONDS, MethodCall
from local_cloud.twin_hub.query import MAX_PAGE
from local_cloud.twin_hub.rest import answer, count_of, if_match, key_of, object_of
from local_cloud.twin_hub.store import ANY
from local_cloud.twin_hub.throttles import Operation
from shared.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from local_cloud.twin_hub.documents import Json
    from local_cloud.twin_hub.hub import Hub

DEFAULT_PAGE = 100
"""Rows of a query's page, if the caller does not say."""

MAX_WAIT_SECONDS = 60
"""Longest that a reader of events is kept waiting."""

MAX_EVENTS = 1000
"""Events in one answer."""

_DEFAULT_EVENTS = 100
_MAX_SEQUENCE = 2**62
_DEFAULT_METHOD_SECONDS = 30
_MAX_METHOD_NAME = 100


class TwinRoutes:
    """Handlers of the twin routes.

    Args:
        hub: What they act on.
    """

    def __init__(self, hub: Hub) -> None:
        self._hub = hub

    def routes(self) -> Iterable[web.RouteDef]:
        """Return the route table."""
        for path in ("/twins/{device}", "/twins/{device}/modules/{module}"):
            yield web.get(path, self.read)
            yield web.patch(path, self.patch)
            yield web.put(path, self.replace)
            yield web.post(f"{path}/methods", self.call_method)
        yield web.post("/devices/query", self.query)
        yield web.get("/local/events", self.events)

    async def read(self, request: web.Request) -> web.Response:
        """Answer a twin."""
        self._hub.throttles.take(Operation.TWIN_READ)
        return self._twin(request)

    async def patch(self, request: web.Request) -> web.Response:
        """Merge a patch into a twin."""
        return await self._update(request, replacing=False)

    async def replace(self, request: web.Request) -> web.Response:
        """Replace the tags and desired properties that are given."""
        return await self._update(request, replacing=True)

    async def query(self, request: web.Request) -> web.Response:
        """Answer one page of a query."""
        body = await object_of(request)
        text, headers = body.get("query"), request.headers
        if not isinstance(text, str):
            raise FormatError("body: expected the query as text")
        size = count_of(
            headers.get("x-ms-max-item-count"),
            default=DEFAULT_PAGE,
            most=MAX_PAGE,
            where="x-ms-max-item-count",
        )
        page = self._hub.query(
            text, page_size=max(1, size), continuation=headers.get("x-ms-continuation") or None
        )
        said = {"x-ms-item-type": page.item_type.value}
        if page.continuation is not None:
            said["x-ms-continuation"] = page.continuation
        return answer(page.items, headers=said)

    async def call_method(self, request: web.Request) -> web.Response:
        """Call a direct method and answer what the device answered."""
        call = _method_call(await object_of(request))
        result = await self._hub.call_method(key_of(request), call)
        return answer({"status": result.status, "payload": result.payload})

    async def events(self, request: web.Request) -> web.Response:
        """Answer change events after a sequence number, waiting for the first."""
        query = request.query
        events, last = await self._hub.store.events.read(
            after=count_of(query.get("after"), default=0, most=_MAX_SEQUENCE, where="after"),
            most=max(1, count_of(query.get("max"), default=_DEFAULT_EVENTS, most=MAX_EVENTS, where="max")),
            seconds=count_of(
                query.get("wait_seconds"), default=0, most=MAX_WAIT_SECONDS, where="wait_seconds"
            ),
        )
        return answer({"events": events, "last": last})

    async def _update(self, request: web.Request, *, replacing: bool) -> web.Response:
        self._hub.throttles.take(Operation.TWIN_UPDATE)
        body = await object_of(request)
        self._hub.update_twin(key_of(request), body, if_match=if_match(request) or ANY, replacing=replacing)
        return self._twin(request)

    def _twin(self, request: web.Request) -> web.Response:
        twin = self._hub.twin_json(key_of(request))
        return answer(twin, etag=twin["etag"])


def _method_call(body: Json) -> MethodCall:
    name = body.get("methodName")
    if not isinstance(name, str) or not 1 <= len(name) <= _MAX_METHOD_NAME:
        raise FormatError(f"methodName: expected text of 1 to {_MAX_METHOD_NAME} characters")
    return MethodCall(
        name=name,
        payload=body.get("payload"),
        response_seconds=_seconds(body, "responseTimeoutInSeconds", default=_DEFAULT_METHOD_SECONDS),
        connect_seconds=_seconds(body, "connectTimeoutInSeconds", default=0),
    )


def _seconds(body: Json, name: str, *, default: int) -> int:
    value = body.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_METHOD_SECONDS:
        raise FormatError(f"{name}: expected 0 to {MAX_METHOD_SECONDS} seconds")
    return value

"""The host's own HTTP interface: ``/admin`` and the Event Grid webhook; the master key opens both.

``POST /admin/functions/{name}`` calls a function as the platform's does, but answers when the call is done:
202 if it succeeded, 500 if not. The body is ``{"input": …}``, as far as the function's trigger wants one.
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import TYPE_CHECKING

from aiohttp import web
from azure.functions.meta import Datum

from local_cloud.functions_host.definitions import FunctionDefinition, TriggerType
from local_cloud.functions_host.http_functions import presented_key
from local_cloud.functions_host.queues import message_metadata
from local_cloud.functions_host.store import HostStore, Message
from local_cloud.functions_host.twin_events import HubEvent, invoke_with_events
from shared import strict_json
from shared.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from local_cloud.functions_host.access_keys import AccessKeys
    from local_cloud.functions_host.engine import Outcome
    from local_cloud.functions_host.invoker import Invoker
    from local_cloud.functions_host.timers import Timer

_ADMIN = "admin"


class Administration:
    """The host's administration.

    Args:
        functions: All functions, by name.
        timers: Those that a timer triggers, by name.
        keys: Who may administer.
        invoker: Calls functions.
        store: Tells the queues' lengths.
    """

    def __init__(
        self,
        functions: Mapping[str, FunctionDefinition],
        timers: Mapping[str, Timer],
        *,
        keys: AccessKeys,
        invoker: Invoker,
        store: HostStore,
    ) -> None:
        self._functions = functions
        self._timers = timers
        self._keys = keys
        self._invoker = invoker
        self._store = store

    def add_routes(self, router: web.UrlDispatcher) -> None:
        """Add the host's own routes."""
        router.add_get("/admin/host/status", self._guarded(self._status))
        router.add_get("/admin/functions", self._guarded(self._list))
        router.add_get("/admin/functions/{name}", self._guarded(self._describe))
        router.add_post("/admin/functions/{name}", self._guarded(self._call))
        router.add_post("/runtime/webhooks/eventgrid", self._guarded(self._event_grid))

    def _guarded(
        self, handler: Callable[[web.Request], Awaitable[web.Response]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            if not self._keys.permits_administration(presented_key(request)):
                return web.Response(status=401)
            try:
                return await handler(request)
            except FormatError as error:
                return web.json_response({"error": str(error)}, status=400)

        return handle

    async def _status(self, _request: web.Request) -> web.Response:
        queues = await asyncio.to_thread(self._store.lengths)
        return web.json_response({"state": "Running", "id": "local", "queues": queues})

    async def _list(self, _request: web.Request) -> web.Response:
        return web.json_response([_described(function) for function in self._functions.values()])

    async def _describe(self, request: web.Request) -> web.Response:
        function = self._functions.get(request.match_info["name"])
        return web.Response(status=404) if function is None else web.json_response(_described(function))

    async def _call(self, request: web.Request) -> web.Response:
        function = self._functions.get(request.match_info["name"])
        if function is None:
            return web.Response(status=404)
        body = _object(await request.read())
        outcome = await self._invoke(function, body.get("input"))
        return web.Response(status=202 if outcome.error is None else 500)

    async def _invoke(self, function: FunctionDefinition, value: object) -> Outcome:
        """Call a function with the input that its trigger would deliver."""
        text = value if isinstance(value, str) else json.dumps(value)
        match function.trigger.type:
            case TriggerType.TIMER:
                return await self._timers[function.name].fire(past_due=False)
            case TriggerType.QUEUE:
                message = Message(id=_ADMIN, text=text, dequeue_count=1, inserted=time.time())
                return await self._invoker.invoke(function, Datum(text, "string"), message_metadata(message))
            case TriggerType.EVENT_GRID:
                return await self._invoker.invoke(function, Datum(text, "json"))
            case TriggerType.EVENT_HUB:
                events = [
                    HubEvent(sequence=number, body=body, properties={}, system_properties={})
                    for number, body in enumerate(value if isinstance(value, list) else [value])
                ]
                return await invoke_with_events(self._invoker, function, events)
            case TriggerType.HTTP:
                raise FormatError(f"function {function.name}: call an HTTP function by its route")

    async def _event_grid(self, request: web.Request) -> web.Response:
        function = self._functions.get(request.query.get("functionName", ""))
        if function is None or function.trigger.type is not TriggerType.EVENT_GRID:
            return web.Response(status=404)
        events = _events(await request.read())
        if request.headers.get("aeg-event-type") == "SubscriptionValidation":
            data = events[0].get("data")
            code = data.get("validationCode") if isinstance(data, dict) else None
            return web.json_response({"validationResponse": code})
        outcomes = await asyncio.gather(
            *(self._invoker.invoke(function, Datum(json.dumps(event), "json")) for event in events)
        )
        failed = any(outcome.error is not None for outcome in outcomes)
        return web.Response(status=500 if failed else 202)


def _described(function: FunctionDefinition) -> dict[str, object]:
    outputs = [
        {"name": output.argument, "type": output.type.value, "direction": "OUT"}
        for output in function.outputs
    ]
    return {
        "name": function.name,
        "config": {"bindings": [dict(function.trigger.members), *outputs]},
    }


def _events(data: bytes) -> list[dict[str, object]]:
    document = strict_json.loads(data, where="request body")
    events = document if isinstance(document, list) else [document]
    objects = [event for event in events if isinstance(event, dict)]
    if not objects or len(objects) != len(events):
        raise FormatError("request body: expected one or more event objects")
    return objects


def _object(data: bytes) -> dict[str, object]:
    document = strict_json.loads(data, where="request body") if data else {}
    if not isinstance(document, dict):
        raise FormatError("request body: expected an object")
    return document

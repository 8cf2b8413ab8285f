"""The functions host, put together: an app's functions, what triggers them, and the state they need.

Everything that could be wrong about the app is found while this is built, before anything is served.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from aiohttp import web

from local_cloud.functions_host.administration import Administration
from local_cloud.functions_host.definitions import FunctionDefinition, OutputType, TriggerType, resolved
from local_cloud.functions_host.http_functions import MAX_BODY, HttpFunctions, RequestLimits
from local_cloud.functions_host.invoker import Invoker
from local_cloud.functions_host.queues import Queues, QueueWorker, parse_queue_name
from local_cloud.functions_host.schedule import parse_schedule
from local_cloud.functions_host.timers import Timer
from local_cloud.functions_host.twin_events import EventConsumer, EventSource
from shared.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterator, Mapping

    from local_cloud.functions_host.access_keys import AccessKeys
    from local_cloud.functions_host.engine import Engine
    from local_cloud.functions_host.host_settings import HostSettings
    from local_cloud.functions_host.store import HostStore

BODY_LIMIT_SETTING = "FUNCTIONS_REQUEST_BODY_SIZE_LIMIT"

_log = logging.getLogger("functions_host")


class FunctionsHost:
    """Runs one function app.

    Args:
        engine: Holds the app.
        settings: From ``host.json``.
        environment: Settings that bindings name.
        store: Queues, checkpoints, timers.
        keys: Who may call what.
        events: The twin hub's change events.

    Raises:
        FormatError: A binding is wrong: a setting, a schedule, a queue's name, a route.
    """

    def __init__(
        self,
        engine: Engine,
        settings: HostSettings,
        *,
        environment: Mapping[str, str],
        store: HostStore,
        keys: AccessKeys,
        events: EventSource,
    ) -> None:
        self._settings = settings
        self._store = store
        self._events = events
        self._keys = keys
        self._functions = {
            function.name: resolved(function, environment) for function in engine.definitions()
        }
        self._check_queues()
        self._queues = Queues(store, settings)
        self._invoker = Invoker(engine, self._queues)
        self._timers = {function.name: self._timer(function) for function in self._of(TriggerType.TIMER)}
        self._http = HttpFunctions(
            self._of(TriggerType.HTTP),
            route_prefix=settings.route_prefix,
            keys=keys,
            invoker=self._invoker,
            limits=RequestLimits(
                body_bytes=_body_limit(environment),
                concurrent=settings.max_concurrent_requests,
                outstanding=settings.max_outstanding_requests,
            ),
        )
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def names(self) -> list[str]:
        """Names of the app's functions."""
        return sorted(self._functions)

    def application(self) -> web.Application:
        """Return what is served over HTTP."""
        application = web.Application(client_max_size=MAX_BODY)
        administration = Administration(
            self._functions, self._timers, keys=self._keys, invoker=self._invoker, store=self._store
        )
        administration.add_routes(application.router)
        application.router.add_route("*", "/{path:.*}", self._http.handle)
        return application

    def start(self) -> None:
        """Begin to work on timers, queues and events."""
        self._tasks = [
            asyncio.create_task(_told(work, function.name)) for function, work in self._background()
        ]

    async def stop(self) -> None:
        """Take nothing new; functions that run are waited for by whoever ends the process."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _background(self) -> Iterator[tuple[FunctionDefinition, Coroutine[None, None, None]]]:
        for function in self._of(TriggerType.TIMER):
            yield function, self._timers[function.name].run()
        for function in self._of(TriggerType.QUEUE):
            worker = QueueWorker(
                function,
                function.trigger.text("queueName"),
                queues=self._queues,
                store=self._store,
                invoker=self._invoker,
                settings=self._settings,
            )
            yield function, worker.run()
        for function in self._of(TriggerType.EVENT_HUB):
            consumer = EventConsumer(
                function,
                self._events,
                invoker=self._invoker,
                store=self._store,
                batch_size=self._settings.event_batch_size,
            )
            yield function, consumer.run()

    def _of(self, kind: TriggerType) -> list[FunctionDefinition]:
        return [function for function in self._functions.values() if function.trigger.type is kind]

    def _timer(self, function: FunctionDefinition) -> Timer:
        schedule = parse_schedule(function.trigger.text("schedule"), where=f"function {function.name}")
        return Timer(function, schedule, invoker=self._invoker, store=self._store)

    def _check_queues(self) -> None:
        for function in self._functions.values():
            where = f"function {function.name}"
            if function.trigger.type is TriggerType.QUEUE:
                parse_queue_name(function.trigger.text("queueName"), where=where)
            for output in function.outputs:
                if output.type is OutputType.QUEUE:
                    parse_queue_name(output.queue, where=where)


def _body_limit(environment: Mapping[str, str]) -> int:
    """Return the platform's own setting for it, as far as it lowers what is the limit anyway."""
    text = environment.get(BODY_LIMIT_SETTING, str(MAX_BODY))
    if not text.isdecimal():
        raise FormatError(f"{BODY_LIMIT_SETTING}: expected a number of bytes, found {text!r:.32}")
    return min(int(text), MAX_BODY)


async def _told(work: Coroutine[None, None, None], function: str) -> None:
    """Run background work; its end by an error is logged, never silent."""
    try:
        await work
    except Exception:
        _log.exception("trigger_stopped", extra={"function": function})
        raise

"""Event hub functions, fed with the twin hub's change events.

A function is called with the events behind its checkpoint; the checkpoint moves after the call succeeded,
so that events are delivered at least once. A call that keeps failing is tried a few times and then passed
over with an error in the log, as the platform passes over it: a poisoned batch must not stop the fleet.
"""

from __future__ import annotations

import asyncio
import json
import logging
from dataclasses import dataclass
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Protocol

from azure.functions.meta import Datum

from shared.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from local_cloud.functions_host.definitions import FunctionDefinition
    from local_cloud.functions_host.engine import Outcome
    from local_cloud.functions_host.invoker import Invoker
    from local_cloud.functions_host.store import HostStore

TRIES = 5
"""Calls with the same events before they are passed over."""

_FIRST_DELAY, _LONGEST_DELAY = 0.1, 5.0

_log = logging.getLogger("functions_host")


@dataclass(frozen=True, slots=True, kw_only=True)
class HubEvent:
    """A change event: its number in the hub's log, its JSON body, and its properties."""

    sequence: int
    body: object
    properties: dict[str, object]
    system_properties: dict[str, object]


class EventSource(Protocol):
    """The hub's event log."""

    async def read(self, *, after: int, limit: int) -> tuple[Sequence[HubEvent], int]:
        """Wait a while for events behind ``after``.

        Returns:
            The events, none if there were none in time, and the number to go on from.

        Raises:
            TransportError: The hub could not be asked.
        """


class EventConsumer:
    """Feeds one function from the hub's event log.

    Args:
        function: Triggered by an event hub.
        source: The log.
        invoker: Calls the function.
        store: Holds the checkpoint.
        batch_size: Most events in a call.
    """

    def __init__(
        self,
        function: FunctionDefinition,
        source: EventSource,
        *,
        invoker: Invoker,
        store: HostStore,
        batch_size: int,
    ) -> None:
        self._function = function
        self._source = source
        self._invoker = invoker
        self._store = store
        self._batch_size = batch_size

    async def run(self) -> None:
        """Deliver events until cancelled."""
        position, delay = self._store.checkpoint(self._function.name), _FIRST_DELAY
        while True:
            try:
                events, position_after = await self._source.read(after=position, limit=self._batch_size)
            except TransportError as error:
                _log.warning("events_unavailable", extra={"reason": str(error), "retry_in": delay})
                await asyncio.sleep(delay)
                delay = min(2 * delay, _LONGEST_DELAY)
                continue
            delay = _FIRST_DELAY
            for batch in self._batches(events):
                await self._deliver(batch)
            if position_after != position:
                position = position_after
                await asyncio.to_thread(self._store.set_checkpoint, self._function.name, position)

    def _batches(self, events: Sequence[HubEvent]) -> list[Sequence[HubEvent]]:
        if not events:
            return []
        if cardinality_many(self._function):
            return [events]
        return [[event] for event in events]

    async def _deliver(self, events: Sequence[HubEvent]) -> None:
        delay = _FIRST_DELAY
        for attempt in range(TRIES):
            outcome = await invoke_with_events(self._invoker, self._function, events, attempt=attempt)
            if outcome.error is None:
                return
            await asyncio.sleep(delay)
            delay = min(2 * delay, _LONGEST_DELAY)
        _log.error(
            "events_passed_over",
            extra={
                "function": self._function.name,
                "first": events[0].sequence,
                "last": events[-1].sequence,
            },
        )


def cardinality_many(function: FunctionDefinition) -> bool:
    """Tell whether an event hub function takes many events in a call; one is the SDK's default."""
    return function.trigger.text("cardinality", "ONE").upper() == "MANY"


async def invoke_with_events(
    invoker: Invoker, function: FunctionDefinition, events: Sequence[HubEvent], *, attempt: int = 0
) -> Outcome:
    """Call an event hub function with these events: all of them, or the first if it takes one."""
    bodies = [json.dumps(event.body, ensure_ascii=False).encode() for event in events]
    system = [_system_properties(event) for event in events]
    if cardinality_many(function):
        data = Datum(SimpleNamespace(bytes=bodies), "collection_bytes")
        metadata = {
            "SystemPropertiesArray": _json(system),
            "PropertiesArray": _json([event.properties for event in events]),
        }
    else:
        data = Datum(bodies[0], "bytes")
        metadata = {
            "SystemProperties": _json(system[0]),
            "Properties": _json(events[0].properties),
            "SequenceNumber": Datum(str(events[0].sequence), "string"),
            "Offset": Datum(str(events[0].sequence), "string"),
            "EnqueuedTimeUtc": Datum(system[0]["EnqueuedTimeUtc"], "string"),
        }
    return await invoker.invoke(function, data, metadata, attempt=attempt)


def _system_properties(event: HubEvent) -> dict[str, Any]:
    """Return an event's system properties with those that an Event Hubs endpoint itself adds."""
    return {
        "SequenceNumber": event.sequence,
        "Offset": str(event.sequence),
        "PartitionKey": event.properties.get("deviceId"),
        "EnqueuedTimeUtc": event.system_properties.get("iothub-enqueuedtime") or _now(),
        **event.system_properties,
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _json(value: object) -> Datum:
    return Datum(json.dumps(value), "json")

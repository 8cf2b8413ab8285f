"""Timer functions: called when their schedule says, never twice at once.

A schedule of a minute or more is monitored, unless its function says otherwise: when the host was down at a
moment that was due, the function is called once at the start, as past due.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from azure.functions.meta import Datum

if TYPE_CHECKING:
    from local_cloud.functions_host.definitions import FunctionDefinition
    from local_cloud.functions_host.engine import Outcome
    from local_cloud.functions_host.invoker import Invoker
    from local_cloud.functions_host.schedule import Schedule
    from local_cloud.functions_host.store import HostStore

_SHORTEST_MONITORED = timedelta(minutes=1)
_NEVER = datetime(1, 1, 1, tzinfo=UTC)


class Timer:
    """Calls one function on its schedule.

    Args:
        function: Triggered by a timer.
        schedule: When.
        invoker: Calls it.
        store: Remembers when it was last due.
    """

    def __init__(
        self, function: FunctionDefinition, schedule: Schedule, *, invoker: Invoker, store: HostStore
    ) -> None:
        self._function = function
        self._schedule = schedule
        self._invoker = invoker
        self._store = store
        self._turn = asyncio.Lock()

    async def run(self) -> None:
        """Call the function until cancelled."""
        if self._function.trigger.members.get("runOnStartup") is True:
            await self.fire(past_due=False)
        elif self._missed():
            await self.fire(past_due=True)
        while True:
            due = self._schedule.next(datetime.now(UTC))
            await _sleep_until(due)
            await self.fire(past_due=False, due=due)

    async def fire(self, *, past_due: bool, due: datetime | None = None) -> Outcome:
        """Call the function now; two calls never overlap."""
        async with self._turn:
            moment = due or datetime.now(UTC)
            last = self._last()
            status = {
                "Last": (last or _NEVER).isoformat(),
                "Next": self._schedule.next(moment).isoformat(),
                "LastUpdated": (last or _NEVER).isoformat(),
            }
            document = {
                "IsPastDue": past_due,
                "Schedule": {"AdjustForDST": True},
                "ScheduleStatus": status,
            }
            outcome = await self._invoker.invoke(self._function, Datum(json.dumps(document), "json"))
            await asyncio.to_thread(self._store.set_timer, self._function.name, moment.timestamp())
            return outcome

    def _last(self) -> datetime | None:
        seconds = self._store.timer(self._function.name)
        return None if seconds is None else datetime.fromtimestamp(seconds, UTC)

    def _missed(self) -> bool:
        last = self._last()
        if last is None or self._function.trigger.members.get("useMonitor") is False:
            return False
        due = self._schedule.next(last)
        return due < datetime.now(UTC) and self._schedule.next(due) - due >= _SHORTEST_MONITORED


async def _sleep_until(moment: datetime) -> None:
    """Sleep until the wall clock shows ``moment``, however it was set meanwhile."""
    left = (moment - datetime.now(UTC)).total_seconds()
    if left > 0:
        await asyncio.sleep(left)
        await _sleep_until(moment)

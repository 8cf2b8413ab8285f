"""Twin-change events: appended with the change that they tell of, read by sequence number.

The log stands for the Event Hubs endpoint that a real hub routes twin changes to. It is bounded: the oldest
events go when there are more than :data:`RETAINED`. Sequence numbers are never used twice.
"""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING

from local_cloud.twin_hub.broadcast import Broadcast
from local_cloud.twin_hub.documents import Json, service_time

if TYPE_CHECKING:
    import datetime as dt
    import sqlite3
    from collections.abc import Sequence

    from shared.types import DeviceId

RETAINED = 100_000
"""Events that are kept."""

_TRIM_EVERY = 1000
_SOURCE = "twinChangeEvents"


class EventLog:
    """The change events of one hub, in the store's database.

    Args:
        database: The store's connection; the caller opens and commits the transactions.
        hub_name: As events name the hub.
    """

    def __init__(self, database: sqlite3.Connection, *, hub_name: str) -> None:
        self._database = database
        self._hub_name = hub_name
        self._bell = Broadcast()
        row = database.execute("SELECT seq FROM sqlite_sequence WHERE name = 'event'").fetchone()
        self._newest: int = row[0] if row else 0

    def append(self, key: DeviceId, *, operation: str, body: Json, at: dt.datetime) -> None:
        """Add an event inside the caller's transaction; call :meth:`announce` after it is committed."""
        event = self._describe(key, operation=operation, body=body, at=at)
        text = json.dumps(event, separators=(",", ":"), ensure_ascii=False)
        added = self._database.execute("INSERT INTO event(document) VALUES(?)", (text,)).lastrowid or 0
        if added % _TRIM_EVERY == 0:
            self._database.execute("DELETE FROM event WHERE seq <= ?", (added - RETAINED,))

    def announce(self) -> None:
        """Wake the readers: what was appended is committed."""
        (self._newest,) = self._database.execute(
            "SELECT seq FROM sqlite_sequence WHERE name = 'event'"
        ).fetchone()
        self._bell.ring()

    async def read(self, *, after: int, most: int, seconds: float) -> tuple[Sequence[Json], int]:
        """Return events with a greater sequence number, waiting up to ``seconds`` for the first.

        Args:
            after: The last sequence number that the reader has done.
            most: At most so many.
            seconds: How long to wait if there is none.

        Returns:
            The events, and where to go on: the last one's number; without any, ``after``, or the newest
            number if ``after`` is beyond it, as it is when the hub's state was thrown away.
        """
        await self._bell.wait_for(lambda: self._newest > after or None, seconds=seconds)
        rows = self._database.execute(
            "SELECT seq, document FROM event WHERE seq > ? ORDER BY seq LIMIT ?", (after, most)
        ).fetchall()
        events = [{"seq": seq, **json.loads(text)} for seq, text in rows]
        return events, rows[-1][0] if rows else min(after, self._newest)

    def _describe(self, key: DeviceId, *, operation: str, body: Json, at: dt.datetime) -> Json:
        device, _, module = key.partition("/")
        properties = {
            "hubName": self._hub_name,
            "deviceId": device,
            **({"moduleId": module} if module else {}),
            "operationTimestamp": service_time(at),
            "opType": operation,
            "iothub-message-schema": "twinChangeNotification",
        }
        system = {
            "content-type": "application/json",
            "content-encoding": "utf-8",
            "correlation-id": secrets.token_hex(6),
            "user-id": self._hub_name,
            "iothub-connection-device-id": device,
            **({"iothub-connection-module-id": module} if module else {}),
            "iothub-enqueuedtime": service_time(at),
            "iothub-message-source": _SOURCE,
        }
        return {"source": _SOURCE, "properties": properties, "system_properties": system, "body": body}

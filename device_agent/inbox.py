"""The queue between the SDK's threads and the agent's one thread; bounded, and never blocking its writers.

What does not fit is not lost: the whole queue gives way to one
:class:`~device_agent.twin_link.LinkChanged`, which makes the agent read the whole twin again. So does a patch
that is larger than a twin may be.
"""

from __future__ import annotations

import threading
from collections import deque

from device_agent.twin_bounds import is_within_bounds
from device_agent.twin_link import DesiredPatch, Event, LinkChanged

MAX_EVENTS = 64
"""Events that may wait; a twin's desired section changes a few times an hour."""


class Inbox:
    """Events in the order in which they came.

    Args:
        limit: How many may wait.
    """

    def __init__(self, limit: int = MAX_EVENTS) -> None:
        self._limit = limit
        self._events: deque[Event] = deque()
        self._changed = threading.Condition()

    def put(self, event: Event) -> None:
        """Add an event; from any thread, at once."""
        if isinstance(event, DesiredPatch) and not is_within_bounds(event.document):
            event = LinkChanged()
        with self._changed:
            if len(self._events) >= self._limit:
                self._events.clear()
                event = LinkChanged()
            self._events.append(event)
            self._changed.notify()

    def get(self, timeout: float | None) -> Event | None:
        """Return the next event, or None if none came in ``timeout`` seconds (None waits for good)."""
        with self._changed:
            self._changed.wait_for(lambda: self._events, timeout)
            return self._events.popleft() if self._events else None

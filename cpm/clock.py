"""Time that does not run backwards past what was proven: the clock of a device may say 1970.

The mark is the latest ``iat`` of a release that was applied. Certificates and expiries are judged at the
system's time, or, if the system is behind it, at the mark plus what has passed since the mark was first seen
here, on a clock that nobody sets. A device whose clock is set back, by accident or by its host, does not get
expired keys to work again, and a lease ends though the clock is held. After a restart time goes on from the
mark: how long the device was off is not proven.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], int]
"""Answers Unix time in seconds, UTC."""

_YEAR_9999 = 253_402_300_799


def system_clock() -> int:
    """Return the system's Unix time in seconds."""
    return int(time.time())


def seconds_since_boot() -> int:
    """Return the seconds since the system started, time asleep included; it cannot be set."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME))


class ProvenClock:
    """The time that is at least proven; for any thread.

    Args:
        clock: The system's clock, which may be wrong.
        elapsed: Seconds since some moment; never set, never back.
    """

    def __init__(self, clock: Clock = system_clock, *, elapsed: Clock = seconds_since_boot) -> None:
        self._clock, self._elapsed = clock, elapsed
        self._mark, self._seen_at = 0, elapsed()
        self._lock = threading.Lock()

    def now(self, mark: int, *, beside: int = 0) -> datetime:
        """Return the latest of the system's time, the mark with what has passed since, and ``beside``.

        Args:
            mark: Unix seconds that are known to be past; a later one than before is remembered.
            beside: The same, and not remembered: the ``iat`` of a release that is not applied yet.

        Returns:
            An aware datetime in UTC; what lies beyond the year 9999 counts as its last second.
        """
        elapsed = self._elapsed()
        with self._lock:
            proven = self._mark + elapsed - self._seen_at
            if mark > proven:
                self._mark, self._seen_at, proven = mark, elapsed, mark
        return datetime.fromtimestamp(min(max(self._clock(), 0, proven, beside), _YEAR_9999), UTC)

"""Time that does not run backwards past what was proven: the clock of a device may say 1970.

The low-water mark is the latest ``iat`` of a release whose signature held. Certificates and expiries are
judged at the system's time, or at the mark if the system is behind it. A device whose clock is set back, by
accident or by its host, does not get expired keys to work again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], int]
"""Answers Unix time in seconds, UTC."""

_YEAR_9999 = 253_402_300_799


def system_clock() -> int:
    """Return the system's Unix time in seconds."""
    return int(time.time())


def proven_time(clock: Clock, *marks: int) -> datetime:
    """Return the later of the clock and the marks.

    Args:
        clock: The system's clock.
        marks: Unix times that are known to be past: the low-water mark, a verified release's ``iat``.

    Returns:
        An aware datetime in UTC; a mark beyond the year 9999 counts as its last second.
    """
    return datetime.fromtimestamp(min(max(clock(), 0, *marks), _YEAR_9999), UTC)

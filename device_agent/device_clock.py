"""Whether the device's clock can be right: a device without a battery for it wakes up in 1970."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], float]
"""Answers Unix time in seconds, or monotonic seconds; whoever asks says which."""

EARLIEST = datetime(2026, 1, 1, tzinfo=UTC).timestamp()
"""Before this, no device ran this agent."""

wall_clock: Clock = time.time


def is_plausible(now: float) -> bool:
    """Say whether ``now``, in Unix seconds, can be right."""
    return now >= EARLIEST


def utc_text(seconds: float) -> str:
    """Return Unix seconds as RFC 3339, UTC, whole seconds."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"

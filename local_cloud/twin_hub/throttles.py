"""Throttles of the paid tiers, as token buckets; without a tier nothing is limited."""

from __future__ import annotations

import enum
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from local_cloud.twin_hub.faults import Fault, HubError

if TYPE_CHECKING:
    from collections.abc import Callable

RETRY_AFTER = 10
"""Seconds that a throttled caller is asked to wait."""

BURST_SECONDS = 60.0
"""How much of its rate a quiet hub saves up."""


class Operation(enum.Enum):
    """What is counted, each by itself."""

    TWIN_READ = "twin reads"
    TWIN_UPDATE = "twin updates"
    QUERY = "queries"
    CONNECT = "device connections"
    REGISTRY = "identity registry operations"


class Tier(enum.Enum):
    """One unit of a paid tier."""

    S1 = "S1"
    S2 = "S2"
    S3 = "S3"


_PER_MINUTE = 1 / 60
_RATES: dict[Tier, dict[Operation, float]] = {  # operations a second
    Tier.S1: {
        Operation.TWIN_READ: 100,
        Operation.TWIN_UPDATE: 50,
        Operation.QUERY: 20 * _PER_MINUTE,
        Operation.CONNECT: 100,
        Operation.REGISTRY: 100 * _PER_MINUTE,
    },
    Tier.S2: {
        Operation.TWIN_READ: 100,
        Operation.TWIN_UPDATE: 50,
        Operation.QUERY: 20 * _PER_MINUTE,
        Operation.CONNECT: 120,
        Operation.REGISTRY: 100 * _PER_MINUTE,
    },
    Tier.S3: {
        Operation.TWIN_READ: 500,
        Operation.TWIN_UPDATE: 250,
        Operation.QUERY: 1000 * _PER_MINUTE,
        Operation.CONNECT: 6000,
        Operation.REGISTRY: 5000 * _PER_MINUTE,
    },
}


@dataclass(slots=True, kw_only=True)
class _Bucket:
    rate: float
    capacity: float
    level: float
    filled_at: float

    def take(self, now: float) -> bool:
        self.level = min(self.capacity, self.level + (now - self.filled_at) * self.rate)
        self.filled_at = now
        if self.level < 1:
            return False
        self.level -= 1
        return True


class Throttles:
    """The buckets of one hub.

    Args:
        tier: Whose rates hold; ``None`` for no limit.
        burst_seconds: How much of its rate a bucket holds when it is full.
        clock: Returns seconds that only rise.
    """

    def __init__(
        self,
        tier: Tier | None,
        *,
        burst_seconds: float = BURST_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._buckets = {}
        for operation, rate in _RATES[tier].items() if tier is not None else ():
            capacity = max(1.0, math.floor(rate * burst_seconds))
            self._buckets[operation] = _Bucket(
                rate=rate, capacity=capacity, level=capacity, filled_at=clock()
            )

    def take(self, operation: Operation) -> None:
        """Count one operation.

        Raises:
            HubError: ``ThrottlingException``: too many of its kind.
        """
        bucket = self._buckets.get(operation)
        if bucket is not None and not bucket.take(self._clock()):
            raise HubError(
                Fault.THROTTLED, f"throttled: wait {RETRY_AFTER} seconds; operation type: {operation.value}"
            )

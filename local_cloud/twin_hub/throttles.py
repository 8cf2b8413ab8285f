"""Throttles of the paid tiers, as token buckets; without a tier nothing is limited."""

from __future__ import annotations

import enum
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from local_cloud.twin_hub.faults import Fault, HubError
from shared.twin.capacity import HubTier, limits_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

RETRY_AFTER = 10
"""Seconds that a throttled caller is asked to wait, unless told."""

BURST_SECONDS = 60.0
"""How much of its rate a quiet hub saves up."""


class Operation(enum.Enum):
    """What is counted, each by itself."""

    TWIN_READ = "twin reads"
    TWIN_UPDATE = "twin updates"
    QUERY = "queries"
    CONNECT = "device connections"
    REGISTRY = "identity registry operations"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """So many calls within so many seconds, and as many at once after a while without any."""

    calls: float
    seconds: float


def limits_of_tier(tier: HubTier | None, *, burst_seconds: float = BURST_SECONDS) -> dict[Operation, Limit]:
    """Return the limits of one unit of a tier; none without one."""
    if tier is None:
        return {}
    published, scale = limits_of(tier, 1), {HubTier.S2: _S2, HubTier.S3: _S3}.get(tier, _SMALLEST)
    rates = {
        Operation.TWIN_READ: published.reads,
        Operation.TWIN_UPDATE: published.updates,
        Operation.QUERY: published.queries,
        **scale,
    }
    return {
        operation: Limit(calls=rate * burst_seconds, seconds=burst_seconds)
        for operation, rate in rates.items()
    }


_PER_MINUTE = 1 / 60
# Operations a second that only devices and enrolment make.
_SMALLEST = {Operation.CONNECT: 100, Operation.REGISTRY: 100 * _PER_MINUTE}
_S2 = {Operation.CONNECT: 120, Operation.REGISTRY: 100 * _PER_MINUTE}
_S3 = {Operation.CONNECT: 6000, Operation.REGISTRY: 5000 * _PER_MINUTE}


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
        limits: By operation; one that is not there is not limited, and without any none is.
        retry_after: Seconds that a throttled caller is asked to wait.
        clock: Returns seconds that only rise.
    """

    def __init__(
        self,
        limits: Mapping[Operation, Limit] | None,
        *,
        retry_after: int = RETRY_AFTER,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.retry_after = retry_after
        self._clock = clock
        self._buckets = {}
        for operation, limit in (limits or {}).items():
            capacity = max(1.0, math.floor(limit.calls))
            self._buckets[operation] = _Bucket(
                rate=limit.calls / limit.seconds, capacity=capacity, level=capacity, filled_at=clock()
            )

    def take(self, operation: Operation) -> None:
        """Count one operation.

        Raises:
            HubError: ``ThrottlingException``: too many of its kind.
        """
        bucket = self._buckets.get(operation)
        if bucket is not None and not bucket.take(self._clock()):
            raise HubError(
                Fault.THROTTLED,
                f"throttled: wait {self.retry_after} seconds; operation type: {operation.value}",
            )

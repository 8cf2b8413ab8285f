"""A token bucket that calls wait at, in the order in which they came.

The generic cell rate algorithm (ITU-T I.371) on a clock that can stand still: each caller is given the moment
at which it may go, and sleeps until then. A pause stops that clock for everybody, so callers who wait already
keep their order and their distance, and nobody goes while it lasts. In any ``t`` seconds at most
``burst + rate * t`` calls go; a pause leaves nothing of the burst.
"""

from __future__ import annotations

import math
import threading
import time
from typing import TYPE_CHECKING

from shared.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable

_TICK = 1e-6  # seconds: what rounding may leave of a wait that is over


class BusyError(TransportError):
    """The turn would come too late for who waits; nothing was sent."""

    default_code = "busy"


class TokenBucket:
    """Lets calls go at a rate; for any number of threads.

    Args:
        name: What is limited, for messages.
        rate: Calls a second; infinite for no limit but pauses.
        burst: How many may go at once after a while without any, at least 1.
        clock: Seconds that never go back.
        sleep: Waits that many seconds.
    """

    def __init__(
        self,
        name: str,
        *,
        rate: float,
        burst: int,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._name = name
        self._interval = 1 / rate
        self._burst = burst
        self._clock = clock
        self._sleep = sleep
        self._lock = threading.Lock()
        # Times below are those of the clock that stands still while there is a pause.
        self._full_at = -math.inf
        self._stood_still = 0.0
        self._paused_until = -math.inf

    def take(self, *, within: float) -> float:
        """Wait for the turn to go.

        Args:
            within: Most seconds to wait.

        Returns:
            How long that was; 0 if there was nothing to wait for.

        Raises:
            BusyError: It takes longer; at once if that is known at once.
        """
        began = self._clock()
        with self._lock:
            turn = self._next_turn(began)
            self._require(self._wait(turn, began), within)
            self._full_at = max(self._full_at, turn) + self._interval
            wait = self._wait(turn, began)
        if wait <= _TICK:
            return 0.0
        while wait > _TICK:
            self._sleep(wait)
            now = self._clock()
            with self._lock:  # a pause may have come meanwhile
                wait = self._wait(turn, now)
            self._require(wait, within - (now - began))
        return now - began

    def pause(self, seconds: float) -> None:
        """Let nobody go for so long; pauses that overlap end with the last of them."""
        now = self._clock()
        with self._lock:
            ends = max(self._paused_until, now + seconds)
            self._stood_still += ends - max(self._paused_until, now)
            self._paused_until = ends
            self._full_at = max(self._full_at, self._time(now) + self._burst * self._interval)

    def _next_turn(self, now: float) -> float:
        return max(self._time(now), self._full_at - (self._burst - 1) * self._interval)

    def _time(self, now: float) -> float:
        """Return the time of the clock that stands still."""
        return now - self._stood_still + max(0.0, self._paused_until - now)

    def _wait(self, turn: float, now: float) -> float:
        return turn - self._time(now) + max(0.0, self._paused_until - now)

    def _require(self, wait: float, within: float) -> None:
        if wait > within + _TICK:
            raise BusyError(
                f"{self._name}: the next call may go in {wait:.1f} s, which is too late",
                hint="the rate is that of the tier, the share and the number of instances in the settings",
                retry_after=math.ceil(wait),
            )

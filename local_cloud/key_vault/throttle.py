"""A vault that has had enough: so many calls within so many seconds, and 429 beyond them.

Azure counts by kind of operation, and per vault and region; here all calls count alike, so that a test or an
operator can see what a function app does when its vault throttles.
"""

from __future__ import annotations

import time
from collections import deque
from typing import TYPE_CHECKING

from local_cloud.key_vault.errors import VaultError

if TYPE_CHECKING:
    from collections.abc import Callable


class Throttle:
    """Counts calls in a sliding window; for one event loop.

    Args:
        calls: How many are let through.
        seconds: Within how long.
        monotonic: A clock in seconds that never goes back.
    """

    def __init__(
        self, *, calls: int, seconds: float, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._calls = calls
        self._seconds = seconds
        self._monotonic = monotonic
        self._passed: deque[float] = deque()

    def take(self) -> None:
        """Let a call through, or refuse it; a refused call does not count.

        Raises:
            VaultError: 429 ``Throttled``.
        """
        now = self._monotonic()
        while self._passed and self._passed[0] <= now - self._seconds:
            self._passed.popleft()
        if len(self._passed) >= self._calls:
            raise VaultError(
                429, "Throttled", "Request was not processed because too many requests were received."
            )
        self._passed.append(now)

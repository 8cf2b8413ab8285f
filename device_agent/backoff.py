"""How long to wait before the next attempt: exponential, with full jitter against herds."""

from __future__ import annotations

from tenacity import RetryCallState, Retrying, wait_random_exponential


class Backoff:
    """Waits drawn between ``first`` seconds and a bound that doubles with every failure up to ``longest``.

    Args:
        first: Seconds before the second attempt, and the least wait.
        longest: Seconds that no wait exceeds.
    """

    def __init__(self, *, first: float, longest: float) -> None:
        self._wait = wait_random_exponential(multiplier=first, min=first, max=longest)
        self._state = RetryCallState(Retrying(), None, (), {})
        self._state.attempt_number = 0

    def after_failure(self) -> float:
        """Return the seconds to wait after one more failure."""
        self._state.attempt_number += 1
        return self._wait(self._state)

    def reset(self) -> None:
        """Start again from ``first``."""
        self._state.attempt_number = 0

"""How long to wait before the next attempt: exponential, with full jitter against herds."""

from __future__ import annotations

import random

_random = random.SystemRandom()
_MOST_DOUBLINGS = 32


class Backoff:
    """Waits drawn between ``first`` seconds and a bound that doubles with every failure up to ``longest``.

    Args:
        first: Seconds before the second attempt, and the least wait.
        longest: Seconds that no wait exceeds.
    """

    def __init__(self, *, first: float, longest: float) -> None:
        self._first, self._longest = first, longest
        self._failures = 0

    def after_failure(self) -> float:
        """Return the seconds to wait after one more failure."""
        bound = min(self._longest, self._first * 2**self._failures)
        self._failures = min(self._failures + 1, _MOST_DOUBLINGS)
        return _random.uniform(self._first, bound)

    def reset(self) -> None:
        """Start again from ``first``."""
        self._failures = 0

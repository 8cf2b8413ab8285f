"""A value that is asked for again after a while."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

_Value = TypeVar("_Value")


class Expiring(Generic[_Value]):
    """Keeps what ``fetch`` answers for ``seconds``; an error of it is not kept.

    Args:
        fetch: Asks for the value.
        seconds: How long an answer is used.
        monotonic: A clock in seconds that never goes back.
    """

    def __init__(
        self,
        fetch: Callable[[], _Value],
        *,
        seconds: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._seconds = seconds
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._kept: tuple[_Value, float] | None = None

    def get(self) -> _Value:
        """Return the value, asked for at most ``seconds`` ago."""
        with self._lock:
            now = self._monotonic()
            if self._kept is None or now >= self._kept[1]:
                self._kept = (self._fetch(), now + self._seconds)
            return self._kept[0]

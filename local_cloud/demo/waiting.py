"""Wait for a condition, not for a time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, TypeVar

from shared.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

LIMIT_SECONDS = 120.0
"""Longest that anything is waited for: a device's SDK may take two rounds of 10 s to find its hub again."""

PAUSE_SECONDS = 0.02
"""Between two looks at a condition."""

RETRY_SECONDS = 0.25
"""Between two attempts at something that costs a process or a call."""


def until(
    look: Callable[[], T | None], *, what: str, seconds: float = LIMIT_SECONDS, pause: float = PAUSE_SECONDS
) -> T:
    """Return the first result of ``look`` that is not None.

    A :class:`~shared.errors.TransportError` from ``look`` counts as not yet: whatever was killed is being
    started again meanwhile.

    Args:
        look: Called again and again.
        what: What is waited for, for the message.
        seconds: How long at most.
        pause: Seconds between two calls.

    Raises:
        TransportError: ``timeout``: it did not come about in time; the message tells the last fault.
    """
    deadline = time.monotonic() + seconds
    fault: TransportError | None = None
    while True:
        try:
            found = look()
        except TransportError as error:
            fault = error
        else:
            if found is not None:
                return found
            fault = None
        if time.monotonic() > deadline:
            because = f": {fault}" if fault else ""
            raise TransportError(f"{what}: not within {seconds:.0f} s{because}", code="timeout") from fault
        time.sleep(pause)

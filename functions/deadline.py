"""How long the function that runs may still take; what waits asks, so that nothing outlasts the function.

A queue or event function is killed at ``functionTimeout`` of ``host.json``, and what it had in hand is done
again by another. It therefore gives itself less, and puts back on the queue what it did not get to.

Example:
    >>> with within(240):
    ...     wait_at_most(remaining())
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

UNBOUNDED_SECONDS = 60.0
"""What remains to work that nobody gave a bound, however long it has taken."""

_ends_at: ContextVar[float | None] = ContextVar("ends_at", default=None)


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Give what runs inside so many seconds from now, and never more than it had.

    A thread that is started inside knows of it only if it is run in a copy of the context.
    """
    ends_at, outer = time.monotonic() + seconds, _ends_at.get()
    token = _ends_at.set(ends_at if outer is None else min(ends_at, outer))
    try:
        yield
    finally:
        _ends_at.reset(token)


def remaining() -> float:
    """Return the seconds that are left; 0 if none are."""
    ends_at = _ends_at.get()
    return UNBOUNDED_SECONDS if ends_at is None else max(0.0, ends_at - time.monotonic())

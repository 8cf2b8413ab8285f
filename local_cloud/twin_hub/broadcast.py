"""Waking everybody who waits for something to have happened, without polling."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

Found = TypeVar("Found")


class Broadcast:
    """A bell: whoever waits looks again when it rings."""

    def __init__(self) -> None:
        self._rung = asyncio.Event()

    def ring(self) -> None:
        """Wake all who wait now."""
        self._rung.set()
        self._rung = asyncio.Event()

    async def wait_for(self, look: Callable[[], Found | None], *, seconds: float) -> Found | None:
        """Return what ``look`` finds, now or after a ring; ``None`` if time runs out first."""
        try:
            async with asyncio.timeout(seconds):
                while (found := look()) is None:
                    await self._rung.wait()
                return found
        except TimeoutError:
            return look()

"""Time that passes only while everybody sleeps: its threads run one after the other, always alike."""

from __future__ import annotations

import heapq
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class VirtualTime:
    """A clock and its sleep.

    Attributes:
        slept: How long each sleep was.
    """

    def __init__(self) -> None:
        self.slept: list[float] = []
        self._now = 1000.0
        self._turn = threading.Condition()
        self._sleepers: list[tuple[float, int, threading.Thread]] = []
        self._count = 0
        self._threads: set[threading.Thread] = set()
        self._runs: threading.Thread | None = None

    def clock(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        """Let time pass; in a thread of :meth:`run` the others go on meanwhile."""
        self.slept.append(seconds)
        me = threading.current_thread()
        if me not in self._threads:
            self._now += seconds
            return
        with self._turn:
            self._lie_down(me, seconds)
            self._wake_next()
            self._wait_for(me)

    def run(self, *functions: Callable[[], None]) -> None:
        """Run functions, each in a thread, until all have returned; the first error is raised."""
        errors: list[BaseException] = []

        def work(function: Callable[[], None]) -> None:
            me = threading.current_thread()
            with self._turn:
                self._wait_for(me)
            try:
                function()
            except BaseException as error:  # noqa: BLE001 - handed on below
                errors.append(error)
            with self._turn:
                self._threads.discard(me)
                self._wake_next()

        threads = [threading.Thread(target=work, args=(function,), daemon=True) for function in functions]
        self._threads = set(threads)
        with self._turn:
            for thread in threads:
                self._lie_down(thread, 0)
            self._wake_next()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=120)
            assert not thread.is_alive(), "a thread waits for something else than time"
        if errors:
            raise errors[0]

    def _lie_down(self, thread: threading.Thread, seconds: float) -> None:
        self._count += 1
        heapq.heappush(self._sleepers, (self._now + seconds, self._count, thread))

    def _wake_next(self) -> None:
        self._runs = None
        if self._sleepers:
            self._now, _, self._runs = heapq.heappop(self._sleepers)
        self._turn.notify_all()

    def _wait_for(self, me: threading.Thread) -> None:
        while self._runs is not me:
            self._turn.wait()

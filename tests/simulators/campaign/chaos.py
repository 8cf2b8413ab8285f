"""Time that is simulated, clocks that are wrong, and calls that go wrong: all drawn from one seeded source.

A call from an instance of the function app to the world can fail before or after it took effect, be done
twice, come late, be the last thing its instance does, or be interrupted by whatever else goes on. Which of
these it is depends on the seed alone.
"""

from __future__ import annotations

import datetime as dt
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from simulators.fleet import NOW

from shared.errors import TransportError

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

Answer = TypeVar("Answer")

STEP_SECONDS = 3600
"""How far a clock that is stepped is off at most."""


class Killed(BaseException):
    """The instance is gone: no handler of the app may tidy up after this."""


class Time:
    """True time, and by how much each clock is wrong."""

    def __init__(self) -> None:
        self.at = NOW
        self.wrong: dict[str, float] = {}

    def go_on(self, seconds: float) -> None:
        self.at += dt.timedelta(seconds=seconds)

    def seconds(self) -> float:
        """Return what a monotonic clock shows: nobody can step it."""
        return (self.at - NOW).total_seconds()

    def clock(self, name: str) -> Callable[[], dt.datetime]:
        return lambda: self.at + dt.timedelta(seconds=self.wrong.get(name, 0.0))


class Log:
    """What happened, one line an event; ``number`` orders everything, and counts what is not told, too."""

    def __init__(self, time: Time) -> None:
        self._time = time
        self.number = 0
        self.lines: list[str] = []
        self.depth = 0

    def tick(self) -> int:
        """Return a number above all before."""
        self.number += 1
        return self.number

    def __call__(self, text: str) -> None:
        self.tick()
        self.lines.append(f"{self.number:6} {self._time.seconds():10.1f} {'. ' * self.depth}{text}")

    def tail(self, count: int = 80) -> str:
        return "\n".join(self.lines[-count:])


@dataclass(frozen=True, kw_only=True)
class Weather:
    """How often a call goes wrong, by kind; chances of one call."""

    refused: float = 0.010
    lost: float = 0.010
    twice: float = 0.008
    dies_before: float = 0.002
    dies_after: float = 0.003
    late: float = 0.02
    interrupted: float = 0.05


class Chaos:
    """Stands between the instances and the world.

    Args:
        random: The seeded source.
        time: Goes on with late answers.
        log: Is told of everything that goes wrong.
        weather: How often it does.

    Attributes:
        is_calm: Whether nothing goes wrong any more.
        interrupt: Lets something else happen in the middle of a call.
        seen: How often each kind of fault came.
    """

    def __init__(self, random: random.Random, time: Time, log: Log, weather: Weather) -> None:
        self._random, self._time, self._log, self._weather = random, time, log, weather
        self._away_until: dict[str, float] = {}
        self._storm_until = 0.0
        self._thread = threading.current_thread()
        self.is_calm = False
        self.interrupt: Callable[[], None] = lambda: None
        self.seen: dict[str, int] = {}

    def send_away(self, place: str, seconds: float) -> None:
        """Nothing answers at this place for a while."""
        self._away_until[place] = self._time.seconds() + seconds
        self.count(f"{place} away")

    def throttle_hub(self, seconds: float) -> None:
        """The hub answers nothing but 429 for a while."""
        self._storm_until = self._time.seconds() + seconds
        self.count("429 storm")

    def count(self, kind: str) -> None:
        self.seen[kind] = self.seen.get(kind, 0) + 1

    def call(self, place: str, what: str, act: Callable[[], Answer]) -> Answer:
        """Make one call; what it does, it does wholly or not at all.

        Raises:
            TransportError: The caller does not know whether it was done.
            Killed: The caller died with it.
        """
        assert threading.current_thread() is self._thread, "a campaign is repeatable in one thread alone"
        if self.is_calm:
            return act()
        self._time.go_on(self._random.uniform(0.001, 0.2))
        self._be_there(place, what)
        kind = self._draw()
        if kind is None:
            return act()
        self.count(kind)
        self._log(f"{place} {what}: {kind}")
        return getattr(self, f"_{kind}")(place, act)

    def _be_there(self, place: str, what: str) -> None:
        now = self._time.seconds()
        if place == "hub" and now < self._storm_until:
            self._log(f"{place} {what}: throttled")
            raise TransportError(f"{what}: the hub answered 429", code="hub_unavailable", retry_after=10)
        if now < self._away_until.get(place, 0.0):
            self._log(f"{place} {what}: away")
            raise TransportError(f"{what}: {place} is away", code=f"{place}_unavailable")

    def _draw(self) -> str | None:
        roll = self._random.random()
        for kind in Weather.__dataclass_fields__:
            roll -= getattr(self._weather, kind)
            if roll < 0:
                return kind
        return None

    def _refused(self, place: str, _act: Callable[[], object]) -> None:
        raise TransportError(f"{place} refused the connection", code=f"{place}_unavailable")

    def _lost(self, place: str, act: Callable[[], object]) -> None:
        act()
        raise TransportError(f"{place}'s answer was lost", code=f"{place}_unavailable")

    def _twice(self, _place: str, act: Callable[[], Answer]) -> Answer:
        act()  # its answer was lost below us, and the client tried again by itself
        return act()

    def _dies_before(self, _place: str, _act: Callable[[], object]) -> None:
        raise Killed

    def _dies_after(self, _place: str, act: Callable[[], object]) -> None:
        act()
        raise Killed

    def _late(self, _place: str, act: Callable[[], Answer]) -> Answer:
        self._time.go_on(self._random.uniform(1, 90))
        answer = act()
        self._time.go_on(self._random.uniform(0, 30))
        return answer

    def _interrupted(self, _place: str, act: Callable[[], Answer]) -> Answer:
        self.interrupt()
        answer = act()
        self.interrupt()
        return answer

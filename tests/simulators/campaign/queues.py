"""A storage queue as the platform has it: at least once, in no order, five tries, then the poison queue."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

MAX_TRIES = 5
VISIBILITY_SECONDS = 30.0


@dataclass(kw_only=True)
class Message:
    """A message; whoever took it has until ``visible_at``."""

    number: int
    text: str
    visible_at: float
    tries: int = 0


@dataclass(kw_only=True)
class StorageQueue:
    """One queue.

    Attributes:
        name: Its name.
        poison: Where messages go that were tried too often; None leaves them where nobody takes them.
        put_count, done_count, aside_count: How many were ever put, how many were deleted after success, how
            many were tried too often.
    """

    name: str
    poison: StorageQueue | None = None
    waiting: list[Message] = field(default_factory=list)
    put_count: int = 0
    done_count: int = 0
    aside_count: int = 0

    def put(self, texts: Sequence[str], *, now: float) -> None:
        for text in texts:
            self.put_count += 1
            self.waiting.append(Message(number=self.put_count, text=text, visible_at=now))

    def take(self, source: random.Random, *, now: float, lease: float) -> Message | None:
        """Take any visible message; it is visible again when the lease ends, unless it was deleted."""
        visible = [message for message in self.waiting if message.visible_at <= now]
        if not visible:
            return None
        message = source.choice(visible)
        if message.tries >= MAX_TRIES:  # whoever had it died with it each time
            self._put_aside(message, now=now)
            return None
        message.tries += 1
        message.visible_at = now + lease
        return message

    def done(self, message: Message) -> None:
        if message in self.waiting:  # two may have worked on it
            self.waiting.remove(message)
            self.done_count += 1

    def failed(self, message: Message, *, now: float) -> bool:
        """Give a message back, or put it aside for good; say whether that was its last try."""
        if message.tries < MAX_TRIES or message not in self.waiting:
            message.visible_at = now + VISIBILITY_SECONDS
            return False
        self._put_aside(message, now=now)
        return True

    def _put_aside(self, message: Message, *, now: float) -> None:
        self.waiting.remove(message)
        self.aside_count += 1
        if self.poison is not None:
            self.poison.put([message.text], now=now)

    @property
    def is_conserved(self) -> bool:
        """Whether every message that was ever put waits, is done, or was put aside."""
        return self.put_count == self.done_count + len(self.waiting) + self.aside_count

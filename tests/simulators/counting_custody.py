"""A custody that counts, whose power can be cut between any two effects on the outside world."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from cpm.custody.storage_root import StorageRoot
from shared.errors import TransportError
from shared.types import Secret


class PowerCut(BaseException):
    """The machine went off; nothing that runs on it handles this."""


@dataclass
class Power:
    """Goes off, or an operation fails, after so many effects; each is before a write or around a count.

    Attributes:
        effects_left: None for never.
        failure: What is raised then.
    """

    effects_left: int | None = None
    failure: BaseException | None = None

    def draw(self) -> None:
        if self.effects_left is None:
            return
        if self.effects_left == 0:
            self.effects_left = None
            raise self.failure
        self.effects_left -= 1

    def cut_after(self, effects: int | None) -> None:
        self.effects_left, self.failure = effects, PowerCut()

    def fail_after(self, effects: int | None) -> None:
        self.effects_left, self.failure = effects, TransportError("no answer", code="custody_unavailable")


@dataclass
class Counter:
    power: Power
    value: int = 100

    def read(self) -> int:
        return self.value

    def increment(self) -> None:
        self.power.draw()
        self.value += 1
        self.power.draw()


@dataclass
class CountingCustody:
    """Seals for real; the device key plays no part and was committed long ago."""

    power: Power = field(default_factory=Power)
    root: StorageRoot = field(default_factory=lambda: StorageRoot(Secret(os.urandom(32))))
    fresh: bool = False

    def __post_init__(self) -> None:
        self.counter = Counter(self.power)

    def commit(self) -> None:
        self.fresh = False

    def seal(self, content: bytes, *, purpose: str) -> bytes:
        self.power.draw()
        return self.root.seal(content, purpose=purpose)

    def unseal(self, sealed: bytes, *, purpose: str) -> bytes:
        return self.root.unseal(sealed, purpose=purpose)

"""Handing a new version of a class key to a fleet in stages: how far it is, and who is reached.

A share is told in basis points, hundredths of a percent, so that nothing is rounded. Which devices a share
reaches follows from their ids alone: a larger share reaches all that a smaller one did, and the first devices
of every rollout are the same ones.

Example:
    >>> plan = Rollout(stages=(100, 1000, WHOLE), pause_on_errors=200)
    >>> plan.share, plan.advanced().share, plan.text()
    (100, 1000, 'staged:0:100,1000,10000:200:10000')
"""

from __future__ import annotations

import enum
import hashlib
import re
from dataclasses import dataclass, replace

from shared.errors import FormatError

WHOLE = 10_000
"""All of a fleet, in basis points; also how many buckets there are."""

MAX_STAGES = 16
"""So many stages fit into a tag of 256 characters, which is what a vault takes, with room to spare."""

_HASH_BYTES = 8
_TEXT = re.compile(
    r"(?P<word>[a-z]+):(?P<stage>[0-9]{1,2}):(?P<stages>[0-9]{1,5}(?:,[0-9]{1,5})*)"
    r":(?P<pause>[0-9]{1,5}):(?P<acknowledged>[0-9]{1,5})",
    re.ASCII,
)


class RolloutState(enum.Enum):
    """Whether devices still differ in the version that they are given."""

    STAGED = "staged"
    FINISHED = "finished"
    ABORTED = "aborted"


def bucket(device_id: str) -> int:
    """Return where a device stands among all that there may be, 0 to 9,999; the same for ever.

    A module stands where its device does, so that a device's modules are reached together.

    Args:
        device_id: Device id, or ``device/module``.

    Example:
        >>> bucket("edge-01") == bucket("edge-01/my-module")
        True
    """
    device = device_id.partition("/")[0]
    digest = hashlib.sha256(device.encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:_HASH_BYTES], "big") % WHOLE


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """A version's way to the fleet, and how far it is.

    Args:
        stages: The share of devices that each stage reaches, in basis points; rises, and ends with all.
        stage: Which stage it is in, from 0; behind the last one it is finished.
        pause_on_errors: The share of a stage's devices that may fail before no further stage should begin.
        acknowledged: The share of a stage's devices that did not fail which should have acknowledged before
            the next stage begins.
        is_aborted: Whether it was given up.

    Raises:
        FormatError: The stages do not rise, do not end with all, or a figure is out of its bounds.
    """

    stages: tuple[int, ...]
    stage: int = 0
    pause_on_errors: int = 0
    acknowledged: int = WHOLE
    is_aborted: bool = False

    def __post_init__(self) -> None:
        if not 1 <= len(self.stages) <= MAX_STAGES:
            raise FormatError(f"rollout: expected 1 to {MAX_STAGES} stages, found {len(self.stages)}")
        if any(later <= earlier for earlier, later in zip((0, *self.stages), self.stages, strict=False)):
            raise FormatError("rollout: expected every stage to reach more devices than the one before")
        if self.stages[-1] != WHOLE:
            raise FormatError("rollout: expected the last stage to reach all devices")
        if not 0 <= self.stage <= len(self.stages):
            raise FormatError(f"rollout: expected stage 0 to {len(self.stages)}, found {self.stage}")
        if not (0 <= self.pause_on_errors <= WHOLE and 0 < self.acknowledged <= WHOLE):
            raise FormatError("rollout: a limit is no share")

    @property
    def state(self) -> RolloutState:
        """Whether it goes on, and if not, how it ended."""
        if self.is_aborted:
            return RolloutState.ABORTED
        return RolloutState.FINISHED if self.stage == len(self.stages) else RolloutState.STAGED

    @property
    def share(self) -> int:
        """The share of devices that get the version now, in basis points."""
        if self.is_aborted:
            return 0
        return WHOLE if self.stage == len(self.stages) else self.stages[self.stage]

    def reaches(self, device_id: str) -> bool:
        """Say whether a device gets the version now."""
        return bucket(device_id) < self.share

    def advanced(self) -> Rollout:
        """Return it one stage further; behind the last one it is finished.

        Raises:
            FormatError: It is finished.
        """
        return replace(self, stage=self.stage + 1)

    def finished(self) -> Rollout:
        """Return it with every stage behind it."""
        return replace(self, stage=len(self.stages))

    def aborted(self) -> Rollout:
        """Return it given up, in the stage where it was."""
        return replace(self, is_aborted=True)

    def text(self) -> str:
        """Return it as one word that :func:`read_rollout` reads; at most 128 characters."""
        stages = ",".join(map(str, self.stages))
        word = self.state.value
        return f"{word}:{self.stage}:{stages}:{self.pause_on_errors}:{self.acknowledged}"


def read_rollout(text: str, *, where: str) -> Rollout:
    """Read what :meth:`Rollout.text` wrote.

    Raises:
        FormatError: It is something else.
    """
    match = _TEXT.fullmatch(text)
    if match is None:
        raise FormatError(f"{where}: expected a rollout, found {text[:32]!r}")
    try:
        found = Rollout(
            stages=tuple(map(int, match["stages"].split(","))),
            stage=int(match["stage"]),
            pause_on_errors=int(match["pause"]),
            acknowledged=int(match["acknowledged"]),
            is_aborted=match["word"] == RolloutState.ABORTED.value,
        )
    except FormatError as error:
        raise FormatError(f"{where}: {error}") from error
    if found.state.value != match["word"]:
        raise FormatError(f"{where}: expected {found.state.value}, found {match['word'][:32]!r}")
    return found

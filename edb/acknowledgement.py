"""Which devices have acknowledged a class key's newest version and floor; read from what the service tells.

It concerns every device whose release names the class key, as a key or as a floor. A device's way:

============ ======================================================================================
stage        meaning
============ ======================================================================================
waiting      its release does not say yet what was asked for
released     its release does, and it has not reported that release yet
acknowledged it reported the release, and holds what the release says and nothing that was revoked
failed       it reported that it cannot use what it was given
============ ======================================================================================

``failed`` is no end: the service tries again, and the operator may help. A device whose release is taken away
leaves the picture.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from edb.answers import ClassKey, Device, Released

_FAILING_STATES = frozenset({"over_budget", "quarantined"})


class Stage(enum.Enum):
    """How far a device is."""

    WAITING = "waiting"
    RELEASED = "released"
    ACKNOWLEDGED = "acknowledged"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What devices are to come to.

    Attributes:
        key_name: The class key.
        version: The version that they are to hold, or None if all are revoked or expired.
        floor: The lowest version that they may still hold; 1 if none was revoked.
    """

    key_name: str
    version: int | None
    floor: int

    @classmethod
    def of(cls, key: ClassKey) -> Goal:
        """Return what devices are to come to now."""
        return cls(key_name=key.name, version=key.current, floor=key.floor)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProgress:
    """How far one device is, which version it reports, and what is in its way."""

    stage: Stage
    version: int | None
    detail: str | None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far all devices are, by their ids."""

    devices: Mapping[str, DeviceProgress]

    @property
    def acknowledged(self) -> int:
        """How many have acknowledged."""
        return sum(each.stage is Stage.ACKNOWLEDGED for each in self.devices.values())

    @property
    def is_complete(self) -> bool:
        """Whether all have; true if it concerns none."""
        return self.acknowledged == len(self.devices)


def progress_of(goal: Goal, devices: Iterable[Device]) -> Progress:
    """Return how far every device is that it concerns."""
    found = {device.device_id: _progress(goal, device) for device in devices}
    return Progress({name: each for name, each in sorted(found.items()) if each is not None})


def _progress(goal: Goal, device: Device) -> DeviceProgress | None:
    release, name = device.released, goal.key_name
    if release is None or (name not in release.keys and name not in release.floors):
        return None
    report = device.reported.keys.get(name) if device.reported is not None else None
    version = None if report is None else report.version
    seen = device.reported is not None and device.reported.sequence >= release.sequence
    if report is not None and report.state == "error":
        return DeviceProgress(stage=Stage.FAILED, version=version, detail=report.error)
    if device.state in _FAILING_STATES:
        return DeviceProgress(stage=Stage.FAILED, version=version, detail=device.reason or device.state)
    if not _says(release, goal):
        return DeviceProgress(stage=Stage.WAITING, version=version, detail=None)
    holds = (
        report is not None and report.state == "installed" and report.version >= goal.version
        if goal.version is not None
        else report is None or report.version >= goal.floor
    )
    stage = Stage.ACKNOWLEDGED if seen and holds else Stage.RELEASED
    return DeviceProgress(stage=stage, version=version, detail=None)


def _says(release: Released, goal: Goal) -> bool:
    """Return whether a release says what devices are to come to."""
    version = release.keys.get(goal.key_name)
    floor_told = goal.floor <= 1 or release.floors.get(goal.key_name, 1) >= goal.floor
    if goal.version is None:
        return version is None and floor_told
    return version is not None and version >= goal.version and floor_told

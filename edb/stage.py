"""How far the devices of one stage of a rollout are; read from what the service tells of a key's holders.

It concerns every device whom the stage reaches and whose twin holds the class key, or that was given the
staged version. A device's way:

============ ======================================================================================
stage        meaning
============ ======================================================================================
waiting      it was not given the version yet
released     it was, and has not reported that it holds it
acknowledged it reports that it holds the version, or a newer one
failed       it was given the version and reports that it cannot use it, or what it was to be given
             does not fit into its twin
============ ======================================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from edb.acknowledgement import DeviceProgress, Progress, Stage
from shared.rollout import WHOLE, bucket

if TYPE_CHECKING:
    from collections.abc import Iterable

    from edb.answers import Holder, StagedVersion

_QUARANTINED, _OVER_BUDGET = "quarantined", "over_budget"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageProgress:
    """How far a stage is.

    Attributes:
        devices: By their ids, how far each is that the stage concerns.
        failed_at_most: So many devices may fail.
        acknowledged_at_least: So many have to acknowledge.
    """

    devices: Progress
    failed_at_most: int
    acknowledged_at_least: int

    @property
    def failed(self) -> int:
        """How many have failed."""
        return sum(each.stage is Stage.FAILED for each in self.devices.devices.values())

    @property
    def has_failed(self) -> bool:
        """Whether more have failed than may."""
        return self.failed > self.failed_at_most

    @property
    def is_complete(self) -> bool:
        """Whether enough have acknowledged; true if it concerns none."""
        return not self.has_failed and self.devices.acknowledged >= self.acknowledged_at_least


def stage_progress(staged: StagedVersion, holders: Iterable[Holder]) -> StageProgress:
    """Return how far the stage that a rollout is in is.

    Args:
        staged: The version, and how far its rollout is.
        holders: Who holds the class key or was given it.
    """
    reached = [each for each in holders if bucket(each.device_id) < staged.rollout.share]
    members = [each for each in reached if each.given_at is not None or each.staged == staged.version]
    devices = {each.device_id: _progress(staged.version, each) for each in members}
    progress = Progress(dict(sorted(devices.items())))
    failed = sum(each.stage is Stage.FAILED for each in devices.values())
    sound = len(devices) - failed
    return StageProgress(
        devices=progress,
        failed_at_most=len(devices) * staged.rollout.pause_on_errors // WHOLE,
        acknowledged_at_least=-(-sound * staged.rollout.acknowledged // WHOLE),
    )


def _progress(version: int, holder: Holder) -> DeviceProgress:
    given = holder.staged == version
    failed = holder.state == "error" and (holder.version == version or (given and not holder.version))
    if failed or (given and holder.outcome == _QUARANTINED) or holder.outcome == _OVER_BUDGET:
        detail = holder.error or holder.outcome
        return DeviceProgress(stage=Stage.FAILED, version=holder.version, detail=detail)
    if holder.state == "installed" and holder.version is not None and holder.version >= version:
        return DeviceProgress(stage=Stage.ACKNOWLEDGED, version=holder.version, detail=None)
    stage = Stage.RELEASED if given else Stage.WAITING
    return DeviceProgress(stage=stage, version=holder.version, detail=None)

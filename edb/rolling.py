"""Take a staged version of a class key through its stages: wait for each, stop where too many fail.

Nothing goes on without this command, and nothing is kept here: how far a rollout is stands with the class
key. Interrupted or killed, it changes nothing, and ``edb keys rotate KEY_NAME --resume`` goes on. Whoever
else moves the same rollout is noticed with the next look, and followed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edb.acknowledgement import Progress
from edb.answers import ClassKey, Holder, StagedVersion
from edb.output import MESSAGES
from edb.shares import percent
from edb.stage import StageProgress, stage_progress
from edb.waiting import INTERVAL_SECONDS, showing, write_event
from shared.command_line.output import DONE, FAILED, print_line
from shared.errors import Conflict, EdbError, TransportError
from shared.rollout import RolloutState
from shared.wire.rollout import ADVANCE

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from edb.key_service import KeyService
    from edb.waiting import Show
    from shared.types import KeyName

SECONDS_A_PAGE = 3.0
"""Between two looks, for each page of the first one: a hub of the smallest size answers 20 pages a minute."""

LONGEST_PAUSE = 30.0
"""After a look at all holders at most: the looks that follow are at few of them."""

ALL_AGAIN = 10
"""All holders are looked at again after ten times as long as so many pages ask for between two looks."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look at a rollout has found.

    Args:
        staged: How far it is.
        progress: How far the devices are that its stage concerns.
        pause: Seconds to wait before the next one.
    """

    staged: StagedVersion
    progress: StageProgress
    pause: float = INTERVAL_SECONDS


class Watcher:
    """Looks at a rollout, and at no more of the fleet than it has to.

    All holders of the class key are looked at in the beginning, now and then, and before a stage is said to
    be over. In between it is those who were given the version; of all others what was known stands.

    Args:
        service: The key service.
        name: The class key.
        clock: Seconds that go forward.
    """

    def __init__(
        self, service: KeyService, name: KeyName, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._service = service
        self._name = name
        self._clock = clock
        self._known: dict[str, Holder] = {}
        self._all_due = float("-inf")

    def look(self) -> Look:
        """Ask how far the rollout and its devices are."""
        staged = staged_version(ClassKey.read(self._service.key(self._name)))
        if self._clock() >= self._all_due:
            return self._look_at_all(staged)
        found, pages = self._holders(staged.version)
        self._known |= found
        progress = stage_progress(staged, self._known.values())
        if progress.is_complete:
            return self._look_at_all(staged)
        return Look(staged=staged, progress=progress, pause=_pause(pages))

    def _look_at_all(self, staged: StagedVersion) -> Look:
        self._known, pages = self._holders(None)
        self._all_due = self._clock() + ALL_AGAIN * _pause(pages)
        progress = stage_progress(staged, self._known.values())
        return Look(staged=staged, progress=progress, pause=min(_pause(pages), LONGEST_PAUSE))

    def _holders(self, version: int | None) -> tuple[dict[str, Holder], int]:
        pages = list(self._service.holder_pages(self._name, version=version))
        holders = (Holder.read(entry) for page in pages for entry in page)
        return {each.device_id: each for each in holders}, len(pages)


def _pause(pages: int) -> float:
    return max(INTERVAL_SECONDS, SECONDS_A_PAGE * pages)


@dataclass(kw_only=True)
class Driver:
    """Takes a rollout through its stages.

    Args:
        look: Looks at it and at its devices.
        advance: Takes it one stage further from where it was found; returns where it is then.
        tell: Is told that a stage begins, and of one that concerns no device that it is passed.
        show: Is told after every look.
        timeout: Seconds that a stage may take.
        clock: Seconds that go forward.
        pause: Waits for seconds.
    """

    look: Callable[[], Look]
    advance: Callable[[StagedVersion], StagedVersion]
    tell: Callable[[str, StagedVersion], None]
    show: Show
    timeout: float
    clock: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep
    last: Look | None = field(default=None, init=False)

    def run(self, staged: StagedVersion) -> str:
        """Go on until the rollout is over, or has to stop.

        Args:
            staged: Where it is.

        Returns:
            ``finished`` or ``aborted``, which may be somebody else's doing; ``errors`` or ``timeout`` if it
            stopped for them and stays where it is.
        """
        while staged.rollout.state is RolloutState.STAGED:
            self.tell("stage", staged)
            found = self._watch(staged)
            if found is None:
                return "timeout"
            if found.staged != staged:
                staged = found.staged
                continue
            if found.progress.has_failed:
                return "errors"
            if not found.progress.devices.devices:
                self.tell("empty", staged)
            staged = self.advance(staged)
        end: str = staged.rollout.state.value
        return end

    def _watch(self, staged: StagedVersion) -> Look | None:
        """Look until the stage is over in one way or another; None if its time is."""
        deadline = self.clock() + self.timeout
        while True:
            pause = INTERVAL_SECONDS
            try:
                self.last = found = self.look()
            except TransportError as error:
                if self.clock() >= deadline and self.last is None:
                    raise
                devices = Progress({}) if self.last is None else self.last.progress.devices
                self.show(devices, str(error))
            else:
                pause = found.pause
                self.show(found.progress.devices, None)
                if found.staged != staged or found.progress.has_failed or found.progress.is_complete:
                    return found
            if self.clock() >= deadline:
                return None
            self.pause(pause)


def roll_out(service: KeyService, name: KeyName, staged: StagedVersion, options: argparse.Namespace) -> int:
    """Take a rollout through its stages, show it, and return the exit status."""
    at = [staged]

    def tell(event: str, now: StagedVersion) -> None:
        at[0] = now
        _tell(event, name, now, as_json=options.json)

    with showing(lambda: _title(name, at[0]), as_json=options.json) as show:
        driver = Driver(
            look=Watcher(service, name).look,
            advance=lambda found: advance(service, name, found),
            tell=tell,
            show=show,
            timeout=options.timeout,
        )
        try:
            end = driver.run(staged)
        except KeyboardInterrupt:
            MESSAGES.warn(f"{_title(name, at[0])}: it stays there; {_how_to_go_on(name)}")
            raise
    return _finish(end, name, at[0], driver.last, options)


def staged_version(key: ClassKey) -> StagedVersion:
    """Return the rollout of a class key's newest version.

    Raises:
        EdbError: ``no_rollout``, it went or goes to all at once.
    """
    if key.rollout is None:
        raise EdbError(f"{key.name}: version {key.version} is not rolled out in stages", code="no_rollout")
    return key.rollout


def advance(service: KeyService, name: KeyName, staged: StagedVersion) -> StagedVersion:
    """Take a rollout one stage further; that it is there already is as good.

    Raises:
        EdbError: It is somewhere else.
    """
    further = StagedVersion(version=staged.version, rollout=staged.rollout.advanced())
    try:
        service.change_rollout(name, version=staged.version, stage=staged.rollout.stage, action=ADVANCE)
    except Conflict as error:
        # The answer to the first attempt may have been lost, or somebody else was as far.
        if error.code != "rollout_changed" or ClassKey.read(service.key(name)).rollout != further:
            raise
    return further


def _title(name: KeyName, staged: StagedVersion) -> str:
    rollout = staged.rollout
    if rollout.state is not RolloutState.STAGED:
        return f"{name} version {staged.version}, {rollout.state.value}"
    stage = f"stage {rollout.stage + 1} of {len(rollout.stages)}"
    return f"{name} version {staged.version}, {stage} ({percent(rollout.share)})"


def _tell(event: str, name: KeyName, staged: StagedVersion, *, as_json: bool) -> None:
    rollout = staged.rollout
    if as_json and event == "stage":
        place = {"stage": rollout.stage, "stages": len(rollout.stages), "share": rollout.share}
        write_event(event, {"key_name": name, "version": staged.version, **place})
    elif not as_json and event == "stage":
        print_line(_title(name, staged))
    elif not as_json:
        print_line(f"{_title(name, staged)}: reaches no device that holds the key")


def _how_to_go_on(name: KeyName) -> str:
    return f"edb keys rotate {name} --resume goes on, --abort gives the version up"


def _finish(
    end: str, name: KeyName, staged: StagedVersion, last: Look | None, options: argparse.Namespace
) -> int:
    progress = None if last is None else last.progress
    total = 0 if progress is None else len(progress.devices.devices)
    acknowledged = 0 if progress is None else progress.devices.acknowledged
    failed = 0 if progress is None else progress.failed
    if options.json:
        event = {"finished": "done", "aborted": "aborted"}.get(end, "paused")
        reason = {"reason": end} if event == "paused" else {}
        counts = {"acknowledged": acknowledged, "failed": failed, "devices": total}
        write_event(event, {"key_name": name, "version": staged.version, **reason, **counts})
    elif end == "finished":
        print_line(f"{name} version {staged.version}: it is there for all devices")
    if end == "finished":
        return DONE
    told = {
        "errors": f"{failed} of {total} devices failed, {percent(staged.rollout.pause_on_errors)} may",
        "timeout": f"{acknowledged} of {total} devices have acknowledged in {options.timeout:g} s",
        "aborted": "somebody aborted it",
    }[end]
    hint = None if end == "aborted" else _how_to_go_on(name)
    MESSAGES.report_error(f"{_title(name, staged)}: {told}", hint)
    return FAILED

"""A rotation in stages, as the operator's command takes it through them."""

import argparse

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edb.acknowledgement import Stage
from edb.answers import ClassKey, Holder, StagedVersion
from edb.rolling import ALL_AGAIN, LONGEST_PAUSE, SECONDS_A_PAGE, Driver, Look, Watcher, advance
from edb.shares import percent, read_share, share, shares, stages_text
from edb.stage import stage_progress
from shared.errors import Conflict, FormatError, TransportError
from shared.rollout import WHOLE, Rollout, bucket
from shared.types import KeyName

APP = KeyName("app")
PLAN = Rollout(stages=(1500, WHOLE))
STAGED = StagedVersion(version=2, rollout=PLAN)
INSIDE = [name for name in (f"edge-{number}" for number in range(400)) if bucket(name) < 1500]
OUTSIDE = [name for name in (f"edge-{number}" for number in range(400)) if bucket(name) >= 1500]


def holder(device_id, **told):
    members = ("given_at", "staged", "version", "state", "error", "outcome")
    values = {"given_at": "2030-01-01T00:00:00Z", "version": 1, "state": "installed", "outcome": "released"}
    told = dict.fromkeys(members) | values | told
    return Holder(device_id=device_id, bucket=bucket(device_id), **told)


def has_it(device_id):
    return holder(device_id, staged=2, version=2)


def failed(device_id):
    return holder(device_id, staged=2, version=2, state="error", error="unwrap_failed")


# ── shares ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ("0%", 0),
        ("0.01%", 1),
        ("0.5%", 50),
        ("1%", 100),
        ("12.34%", 1234),
        ("99.99%", 9999),
        ("100%", 10_000),
    ],
)
def test_a_share_is_percent_in_hundredths(text, points):
    assert read_share(text) == share(text) == points
    assert percent(points) == text


@given(st.integers(0, WHOLE))
def test_a_share_that_is_shown_is_read_back(points):
    assert read_share(percent(points)) == points


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1",
        "%",
        "1 %",
        " 1%",
        "+1%",
        "-1%",
        "1.%",
        ".5%",
        "0.001%",
        "1e1%",
        "100.01%",
        "101%",
        "01%",
        "\u0661%",
    ],
)
def test_anything_else_is_refused(text):
    with pytest.raises(FormatError):
        read_share(text)
    with pytest.raises(argparse.ArgumentTypeError):
        share(text)


def test_shares_stand_between_commas():
    assert shares("10%,100%") == (1000, 10_000)
    with pytest.raises(argparse.ArgumentTypeError):
        shares("10%,,100%")


def test_how_far_a_rollout_is_can_be_said():
    assert stages_text(PLAN) == "staged: stage 1 of 2 (15%, 100%)"
    assert stages_text(PLAN.finished()) == "finished: stage 2 of 2 (15%, 100%)"


# ── a stage ───────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("told", "stage"),
    [
        ({}, Stage.WAITING),
        ({"staged": 2}, Stage.RELEASED),
        ({"staged": 2, "version": None, "state": None}, Stage.RELEASED),
        ({"staged": 2, "version": 2}, Stage.ACKNOWLEDGED),
        ({"version": 3}, Stage.ACKNOWLEDGED),
        ({"staged": 2, "version": 2, "state": "error", "error": "unwrap_failed"}, Stage.FAILED),
        ({"staged": 2, "version": 0, "state": "error", "error": "key_mismatch"}, Stage.FAILED),
        ({"staged": 2, "outcome": "quarantined"}, Stage.FAILED),
        ({"outcome": "over_budget"}, Stage.FAILED),
        # What was wrong with the version before is no fault of this one, as long as it was not given.
        ({"version": 1, "state": "error", "error": "unwrap_failed"}, Stage.WAITING),
        ({"outcome": "quarantined"}, Stage.WAITING),
        ({"staged": 2, "version": 1, "state": "error", "error": "unwrap_failed"}, Stage.RELEASED),
    ],
)
def test_how_far_a_device_is(told, stage):
    progress = stage_progress(STAGED, [holder(INSIDE[0], **told)])
    assert progress.devices.devices[INSIDE[0]].stage is stage


def test_a_stage_concerns_whom_it_reaches_and_who_is_to_hold_the_key():
    taken_away = holder(INSIDE[1], given_at=None)
    progress = stage_progress(STAGED, [has_it(INSIDE[0]), taken_away, has_it(OUTSIDE[0])])
    assert set(progress.devices.devices) == {INSIDE[0]}
    whole = StagedVersion(version=2, rollout=PLAN.advanced())
    assert set(stage_progress(whole, [has_it(INSIDE[0]), has_it(OUTSIDE[0])]).devices.devices) == {
        INSIDE[0],
        OUTSIDE[0],
    }


@pytest.mark.parametrize(
    ("pause", "acknowledged", "devices", "has_failed", "is_complete"),
    [
        (0, WHOLE, "....", False, False),
        (0, WHOLE, "aaaa", False, True),
        (0, WHOLE, "aaa.", False, False),
        (0, WHOLE, "aaaf", True, False),
        (2500, WHOLE, "aaaf", False, True),  # exactly the limit is not more than the limit
        (2499, WHOLE, "aaaf", True, False),
        (2500, WHOLE, "aa.f", False, False),
        (2500, WHOLE, "aaff", True, False),
        (0, 7500, "aaa.", False, True),
        (0, 7501, "aaa.", False, False),
        (WHOLE, WHOLE, "ffff", False, True),
        (0, WHOLE, "", False, True),
    ],
)
def test_a_stage_is_over_when_enough_have_acknowledged_and_not_too_many_failed(
    pause, acknowledged, devices, has_failed, is_complete
):
    make = {"a": has_it, "f": failed, ".": holder}
    rollout = Rollout(stages=PLAN.stages, pause_on_errors=pause, acknowledged=acknowledged)
    staged = StagedVersion(version=2, rollout=rollout)
    holders = [make[kind](name) for kind, name in zip(devices, INSIDE, strict=False)]
    progress = stage_progress(staged, holders)
    assert (progress.has_failed, progress.is_complete) == (has_failed, is_complete)


# ── driving ───────────────────────────────────────────────────────────────────────────────────────────────


class Service:
    """What the driver sees: scenes of a fleet, one for each look."""

    def __init__(self, *scenes):
        self.staged = STAGED
        self.scenes = list(scenes)
        self.advanced = []
        self.told = []
        self.shown = []
        self.now = 0.0
        self.pauses = []

    def look(self):
        scene = self.scenes.pop(0) if len(self.scenes) > 1 else self.scenes[0]
        if callable(scene):
            scene = scene(self)
        if isinstance(scene, Exception):
            raise scene
        return Look(staged=self.staged, progress=stage_progress(self.staged, scene), pause=SECONDS_A_PAGE)

    def advance(self, staged):
        assert staged == self.staged
        self.advanced.append(staged.rollout.stage)
        self.staged = StagedVersion(version=2, rollout=staged.rollout.advanced())
        return self.staged

    def sleep(self, seconds):
        self.pauses.append(seconds)
        self.now += seconds

    def run(self, *, timeout=100.0):
        driver = Driver(
            look=self.look,
            advance=self.advance,
            tell=lambda event, staged: self.told.append((event, staged.rollout.stage)),
            show=lambda progress, fault: self.shown.append((progress, fault)),
            timeout=timeout,
            clock=lambda: self.now,
            pause=self.sleep,
        )
        return driver.run(self.staged)


def test_it_waits_for_each_stage_and_goes_to_the_end():
    done = [has_it(INSIDE[0]), has_it(OUTSIDE[0])]
    service = Service([holder(INSIDE[0])], [has_it(INSIDE[0])], [has_it(INSIDE[0]), holder(OUTSIDE[0])], done)
    assert service.run() == "finished"
    assert service.advanced == [0, 1]
    assert service.told == [("stage", 0), ("stage", 1)]
    assert len(service.shown) == 4


def test_it_stops_where_too_many_fail_and_does_nothing_more():
    service = Service([holder(INSIDE[0]), holder(INSIDE[1])], [has_it(INSIDE[0]), failed(INSIDE[1])])
    assert service.run() == "errors"
    assert service.advanced == []


def test_it_stops_where_a_stage_takes_too_long():
    service = Service([holder(INSIDE[0])])
    assert service.run(timeout=10.0) == "timeout"
    assert service.advanced == []
    assert 10.0 <= service.now < 10.0 + SECONDS_A_PAGE


def test_the_time_is_a_stages_own():
    slow = [[holder(INSIDE[0])]] * 2
    service = Service(*slow, [has_it(INSIDE[0])], *slow, [has_it(INSIDE[0])])
    assert service.run(timeout=3 * SECONDS_A_PAGE) == "finished"


def test_a_stage_that_reaches_nobody_is_passed_and_told():
    service = Service([holder(OUTSIDE[0])], [has_it(OUTSIDE[0])])
    assert service.run() == "finished"
    assert service.told == [("stage", 0), ("empty", 0), ("stage", 1)]
    assert service.pauses == []


def test_what_somebody_else_does_to_it_is_followed():
    def moved(service):
        service.staged = StagedVersion(version=2, rollout=PLAN.advanced())
        return [has_it(INSIDE[0])]

    def aborted(service):
        service.staged = StagedVersion(version=2, rollout=PLAN.aborted())
        return []

    ahead = Service([holder(INSIDE[0])], moved, [has_it(INSIDE[0])])
    assert ahead.run() == "finished"
    assert ahead.advanced == [1]
    over = Service([holder(INSIDE[0])], aborted)
    assert over.run() == "aborted"
    assert over.advanced == []


def test_a_look_that_fails_is_made_again():
    service = Service(
        TransportError("away"), [holder(INSIDE[0])], TransportError("away"), [has_it(INSIDE[0])]
    )
    assert service.run() == "finished"
    assert [fault for _, fault in service.shown][:4] == ["away", None, "away", None]


def test_a_service_that_never_answers_is_a_failure():
    with pytest.raises(TransportError):
        Service(TransportError("away")).run(timeout=5.0)


def test_a_rollout_over_already_is_not_looked_at():
    service = Service([])
    service.staged = StagedVersion(version=2, rollout=PLAN.finished())
    assert service.run() == "finished"
    assert service.shown == []


class Fleet:
    """A key service and the holders of its one class key; notes what it was asked for."""

    def __init__(self, holders, *, page_size=1):
        self.rollout, self.holders, self.page_size = (
            PLAN,
            {each.device_id: each for each in holders},
            page_size,
        )
        self.asked = []
        self.now = 0.0

    def key(self, name):
        return key_document(name, self.rollout)

    def holder_pages(self, name, *, version=None):
        self.asked.append(version)
        found = [
            {member: getattr(each, member) for member in Holder.__dataclass_fields__}
            for each in self.holders.values()
            if version is None or version in (each.version, each.staged)
        ]
        for start in range(0, max(len(found), 1), self.page_size):
            yield found[start : start + self.page_size]

    def update(self, *holders):
        self.holders |= {each.device_id: each for each in holders}


class TestWatching:
    @pytest.fixture
    def fleet(self):
        return Fleet([holder(name) for name in [*INSIDE[:3], *OUTSIDE[:17]]])

    @pytest.fixture
    def watcher(self, fleet):
        return Watcher(fleet, APP, clock=lambda: fleet.now)

    def test_all_are_looked_at_once_and_then_those_who_were_given_the_version(self, fleet, watcher):
        first = watcher.look()
        assert set(first.progress.devices.devices) == set(INSIDE[:3])
        fleet.update(has_it(INSIDE[0]))
        second = watcher.look()
        assert fleet.asked == [None, 2]
        assert {name: each.stage for name, each in second.progress.devices.devices.items()} == {
            INSIDE[0]: Stage.ACKNOWLEDGED,
            INSIDE[1]: Stage.WAITING,
            INSIDE[2]: Stage.WAITING,
        }

    def test_a_stage_is_over_only_if_a_look_at_all_says_so(self, fleet, watcher):
        watcher.look()
        fleet.update(*map(has_it, INSIDE[:3]), holder(INSIDE[3]))  # one more came in the meantime
        assert not watcher.look().progress.is_complete
        assert fleet.asked == [None, 2, None]
        fleet.update(has_it(INSIDE[3]))
        assert watcher.look().progress.is_complete
        assert fleet.asked[-1] is None

    def test_who_left_is_missed_by_the_next_look_at_all(self, fleet, watcher):
        watcher.look()
        del fleet.holders[INSIDE[2]]
        assert len(watcher.look().progress.devices.devices) == 3
        fleet.now += ALL_AGAIN * SECONDS_A_PAGE * 20
        assert len(watcher.look().progress.devices.devices) == 2
        assert fleet.asked == [None, 2, None]

    def test_a_failure_is_seen_without_a_look_at_all(self, fleet, watcher):
        watcher.look()
        fleet.update(failed(INSIDE[0]))
        assert watcher.look().progress.has_failed
        assert fleet.asked == [None, 2]

    def test_the_more_pages_a_look_takes_the_longer_it_waits(self, fleet, watcher):
        assert watcher.look().pause == LONGEST_PAUSE  # 20 pages, and the next look is at few of them
        fleet.update(*map(has_it, INSIDE[:2]))
        assert watcher.look().pause == 2 * SECONDS_A_PAGE
        fleet.update(*map(has_it, OUTSIDE[:17]))
        assert watcher.look().pause == 19 * SECONDS_A_PAGE

    def test_the_next_stage_is_known_from_the_last_look_at_all(self, fleet, watcher):
        fleet.update(*map(has_it, INSIDE[:3]))
        assert watcher.look().progress.is_complete
        fleet.rollout = PLAN.advanced()
        assert len(watcher.look().progress.devices.devices) == 20
        assert fleet.asked == [None, 2]


class Moved:
    """A key service that says that the rollout has moved, and where it is."""

    def __init__(self, rollout, code="rollout_changed"):
        self.rollout, self.code = rollout, code

    def change_rollout(self, name, **_asked):
        raise Conflict(f"{name}: no", code=self.code)

    def key(self, name):
        return key_document(name, self.rollout)


def key_document(name, rollout):
    told = {
        "version": 2,
        "state": rollout.state.value,
        "stage": rollout.stage,
        "stages": list(rollout.stages),
        "share": rollout.share,
        "pause_on_errors": rollout.pause_on_errors,
        "acknowledged": rollout.acknowledged,
    }
    versions = [{"version": number, "state": "active"} for number in (1, 2)]
    return {
        "key_name": name,
        "version": 2,
        "floor": 1,
        "algorithm": "aes-gcm",
        "strength": "256",
        "versions": versions,
        "rollout": told,
    }


def test_an_answer_that_was_lost_is_as_good_as_one_that_came():
    assert advance(Moved(PLAN.advanced()), APP, STAGED).rollout == PLAN.advanced()


@pytest.mark.parametrize(
    "service", [Moved(PLAN), Moved(PLAN.aborted()), Moved(PLAN.advanced(), code="name_taken")]
)
def test_a_rollout_that_is_elsewhere_is_not_taken_further(service):
    with pytest.raises(Conflict):
        advance(service, APP, STAGED)


def test_devices_are_waited_for_by_the_version_that_is_there_for_all():
    assert ClassKey.read(key_document(APP, PLAN)).current == 1
    assert ClassKey.read(key_document(APP, PLAN.finished())).current == 2
    assert ClassKey.read(key_document(APP, PLAN)).rollout == STAGED


@pytest.mark.parametrize("wrong", [{"stages": ["1%"]}, {"stages": [100]}, {"stage": 9}, {"version": None}])
def test_an_answer_that_breaks_the_contract_is_malformed(wrong):
    document = key_document(APP, PLAN)
    document["rollout"] |= wrong
    with pytest.raises(FormatError):
        ClassKey.read(document)

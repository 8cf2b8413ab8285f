"""Which devices have acknowledged a rotation or a revocation, from what the service tells of them."""

import pytest
from simulators.key_service_api import device

from edb.acknowledgement import Goal, Stage, progress_of
from edb.answers import ClassKey, Device
from edb.waiting import watch
from shared.errors import TransportError

ROTATED = Goal(key_name="app", version=2, floor=1)
REVOKED_OLD = Goal(key_name="app", version=2, floor=2)
REVOKED_WHOLE = Goal(key_name="app", version=None, floor=3)


def stage_of(goal, **described):
    progress = progress_of(goal, [Device.read(device("edge-01", **described))])
    found = progress.devices.get("edge-01")
    return None if found is None else found.stage


@pytest.mark.parametrize(
    ("described", "stage"),
    [
        ({"released": None}, None),
        ({"released": (10, {"other": 1})}, None),
        ({"released": (10, {"app": 1}), "reported": (10, {"app": 1})}, Stage.WAITING),
        ({"released": (11, {"app": 2}), "reported": (10, {"app": 1})}, Stage.RELEASED),
        ({"released": (11, {"app": 2}), "reported": None}, Stage.RELEASED),
        # It reports the key of a release, and yet an older release: something is between the two.
        ({"released": (11, {"app": 2}), "reported": (10, {"app": 2})}, Stage.RELEASED),
        ({"released": (11, {"app": 2}), "reported": (11, {"app": 2})}, Stage.ACKNOWLEDGED),
        ({"released": (12, {"app": 3}), "reported": (12, {"app": 3})}, Stage.ACKNOWLEDGED),
        ({"released": (11, {"app": 2}), "reported": (11, {"app": "unwrap_failed"})}, Stage.FAILED),
        ({"state": "quarantined", "released": (10, {"app": 1}), "reported": (10, {"app": 1})}, Stage.FAILED),
    ],
)
def test_a_rotation_is_acknowledged_once_the_device_reports_the_release_that_has_it(described, stage):
    assert stage_of(ROTATED, **described) is stage


@pytest.mark.parametrize(
    ("goal", "described", "stage"),
    [
        (REVOKED_OLD, {"released": (10, {"app": 2}), "reported": (10, {"app": 2})}, Stage.WAITING),
        (
            REVOKED_OLD,
            {"released": (11, {"app": 2}, {"app": 2}), "reported": (11, {"app": 2})},
            Stage.ACKNOWLEDGED,
        ),
        (REVOKED_WHOLE, {"released": (10, {"app": 2}), "reported": (10, {"app": 2})}, Stage.WAITING),
        (REVOKED_WHOLE, {"released": (11, {}, {"app": 3}), "reported": (10, {"app": 2})}, Stage.RELEASED),
        (REVOKED_WHOLE, {"released": (11, {}, {"app": 3}), "reported": (11, {})}, Stage.ACKNOWLEDGED),
        (REVOKED_WHOLE, {"released": (11, {}, {"app": 3}), "reported": (11, {"app": 2})}, Stage.RELEASED),
    ],
)
def test_a_revocation_is_acknowledged_once_the_device_no_longer_holds_what_is_gone(goal, described, stage):
    assert stage_of(goal, **described) is stage


def test_it_is_complete_when_all_have_acknowledged_and_when_it_concerns_nobody():
    done = device("a", released=(11, {"app": 2}), reported=(11, {"app": 2}))
    waiting = device("b", released=(10, {"app": 1}), reported=(10, {"app": 1}))

    assert progress_of(ROTATED, []).is_complete
    assert progress_of(ROTATED, [Device.read(done)]).is_complete
    assert not progress_of(ROTATED, [Device.read(done), Device.read(waiting)]).is_complete


@pytest.mark.parametrize(
    ("states", "current", "state"),
    [
        ({}, 3, "live"),
        ({1: "revoked", 2: "active", 3: "disabled"}, 2, "live"),
        ({1: "revoked", 2: "expired", 3: "not_yet_valid"}, None, "unusable"),
    ],
)
def test_devices_are_to_come_to_the_newest_active_version(states, current, state):
    versions = [{"version": number, "state": each} for number, each in states.items()]
    told = {"key_name": "app", "version": 3, "floor": 2, "algorithm": "aes-gcm", "strength": 256}

    key = ClassKey.read(told | {"versions": versions})

    assert Goal.of(key) == Goal(key_name="app", version=current, floor=2)
    assert key.state == state


class Clock:
    """Time that goes by only while somebody pauses."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def pause(self, seconds):
        self.now += seconds


def looks(*found):
    remaining = list(found)

    def look():
        each = remaining.pop(0) if len(remaining) > 1 else remaining[0]
        if isinstance(each, Exception):
            raise each
        return progress_of(ROTATED, [Device.read(each)])

    return look


OLD = device("a", released=(10, {"app": 1}), reported=(10, {"app": 1}))
NEW = device("a", released=(11, {"app": 2}), reported=(11, {"app": 2}))


def test_waiting_goes_on_over_a_look_that_fails():
    clock, shown = Clock(), []

    progress = watch(
        looks(OLD, TransportError("away"), NEW),
        lambda progress, fault: shown.append((progress.acknowledged, fault)),
        timeout=60,
        clock=clock,
        pause=clock.pause,
    )

    assert progress.is_complete
    assert shown == [(0, None), (0, "away"), (1, None)]


def test_waiting_ends_with_what_was_seen_last_when_the_time_is_over():
    clock = Clock()

    progress = watch(looks(OLD), lambda *_: None, timeout=60, clock=clock, pause=clock.pause)

    assert not progress.is_complete
    assert 60 <= clock.now < 70


def test_waiting_fails_if_no_look_ever_succeeds():
    clock = Clock()

    with pytest.raises(TransportError, match="away"):
        watch(looks(TransportError("away")), lambda *_: None, timeout=60, clock=clock, pause=clock.pause)

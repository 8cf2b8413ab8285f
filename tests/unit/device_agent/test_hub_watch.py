"""Waits and suspicions around the connection to the hub, on a clock that the test turns."""

import logging

import pytest
from simulators.device_link import SimulatedLink

from device_agent.health import Tally
from device_agent.hub_watch import (
    DUPLICATE_WAIT_SECONDS,
    LONGEST_DUPLICATE_WAIT_SECONDS,
    SETTLED_SECONDS,
    STABLE_SECONDS,
    UNAUTHORIZED_SECONDS,
    YOUNG_LOSSES,
    HubWatch,
)
from device_agent.twin_link import UNAUTHORIZED
from shared.errors import TransportError


class Hub:
    def __init__(self):
        self.link = SimulatedLink()
        self.now, self.wall = 1000.0, 1_800_000_000.0
        self.tally = Tally(clock=lambda: self.wall)
        self.watch = HubWatch(
            self.link,
            notify=lambda _event: None,
            tally=self.tally,
            clock=lambda: self.now,
            wall=lambda: self.wall,
        )

    def connection_of(self, seconds):
        """Connect as soon as may be, stay connected for a while, and be thrown out."""
        self.now = max(self.now, self.watch.due)
        assert self.watch.connect()
        self.now += seconds
        self.watch.leave("connection lost")
        return self.watch.due - self.now


@pytest.fixture
def hub():
    return Hub()


def told(caplog, event):
    return [record for record in caplog.records if record.getMessage() == event]


def test_identity_that_is_thrown_out_again_and_again_waits_for_minutes_and_says_so(hub, caplog):
    waits = [hub.connection_of(1) for _ in range(YOUNG_LOSSES + 5)]

    assert hub.watch.dropped_again_and_again
    for wait in waits[YOUNG_LOSSES - 1 :]:
        assert DUPLICATE_WAIT_SECONDS <= round(wait, 6) <= LONGEST_DUPLICATE_WAIT_SECONDS
    assert len(told(caplog, "duplicate_identity_suspected")) == 6


def test_hub_that_restarts_now_and_then_is_no_duplicate(hub, caplog):
    for _ in range(20):
        hub.connection_of(1)
        hub.connection_of(STABLE_SECONDS + 1)

    assert not hub.watch.dropped_again_and_again
    assert told(caplog, "duplicate_identity_suspected") == []


def test_suspicion_ends_with_a_connection_that_lasts(hub):
    for _ in range(YOUNG_LOSSES):
        hub.connection_of(1)
    hub.connection_of(STABLE_SECONDS + 1)
    assert hub.watch.dropped_again_and_again

    hub.now = hub.watch.due
    hub.watch.connect()
    hub.now += SETTLED_SECONDS

    assert not hub.watch.dropped_again_and_again
    hub.watch.leave("connection lost")
    assert hub.watch.due - hub.now < DUPLICATE_WAIT_SECONDS


def test_refused_device_is_tried_once_a_minute(hub):
    hub.link.fail_next(*[TransportError("refused", code=UNAUTHORIZED)] * 3)
    for _ in range(3):
        hub.now = max(hub.now, hub.watch.due)
        assert not hub.watch.connect()
        assert hub.watch.refused
        assert hub.watch.due == hub.now + UNAUTHORIZED_SECONDS

    hub.now = hub.watch.due
    assert hub.watch.connect()
    assert not hub.watch.refused


def test_hub_that_is_away_for_hours_is_tried_about_once_a_minute(hub):
    hub.link.go_away()
    attempts = 0
    end = hub.now + 6 * 3600
    while hub.now < end:
        hub.now = max(hub.now, hub.watch.due)
        assert not hub.watch.connect()
        attempts += 1

    assert 360 <= attempts <= 1200
    assert hub.tally.connect_failures == attempts


@pytest.mark.parametrize(("wall", "hinted"), [(7.0, True), (1_800_000_000.0, False)])
def test_failure_under_a_clock_of_1970_names_the_clock(hub, caplog, wall, hinted):
    hub.wall = wall
    hub.link.fail_next(TransportError("the hub's certificate is not trusted", code="hub_untrusted"))

    hub.watch.connect()

    [record] = told(caplog, "connect_failed")
    assert getattr(record, "clock", None) == ("1970-01-01T00:00:07Z" if hinted else None)


@pytest.fixture(autouse=True)
def _level(caplog):
    caplog.set_level(logging.INFO, logger="device_agent")

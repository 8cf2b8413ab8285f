"""A token bucket: its order, its pauses, its bound; tests/property has its rate."""

from __future__ import annotations

import math

import pytest
from simulators.virtual_time import VirtualTime

from functions.token_bucket import BusyError, TokenBucket


@pytest.fixture
def time():
    return VirtualTime()


def bucket(time, *, rate=10.0, burst=1):
    return TokenBucket("hub, twin_read", rate=rate, burst=burst, clock=time.clock, sleep=time.sleep)


def moments(time, subject, calls):
    """Return when calls went, from now on."""
    began, found = time.clock(), []
    for _ in range(calls):
        subject.take(within=math.inf)
        found.append(round(time.clock() - began, 6))
    return found


def test_a_burst_goes_at_once_and_then_one_call_each_interval(time):
    assert moments(time, bucket(time, burst=3), 6) == [0, 0, 0, 0.1, 0.2, 0.3]


def test_what_was_not_used_is_saved_up_to_the_burst(time):
    subject = bucket(time, burst=3)
    moments(time, subject, 3)
    time.sleep(0.2)
    assert moments(time, subject, 3) == [0, 0, 0.1]
    time.sleep(1000)
    assert moments(time, subject, 4) == [0, 0, 0, 0.1]


def test_a_rate_below_one_a_second_is_kept_too(time):
    assert moments(time, bucket(time, rate=8 / 60, burst=2), 4) == [0, 0, 7.5, 15]


def test_without_a_rate_nothing_waits(time):
    moments(time, bucket(time, rate=math.inf), 1000)
    assert time.slept == []


def test_it_tells_how_long_it_took(time):
    subject = bucket(time)
    assert (subject.take(within=1), round(subject.take(within=1), 6)) == (0, 0.1)


def test_threads_go_in_the_order_in_which_they_came_and_each_as_often(time):
    subject, went = bucket(time), []

    def work(name):
        for _ in range(20):
            subject.take(within=math.inf)
            went.append(name)

    time.run(*(lambda name=name: work(name) for name in range(8)))
    # The first of them need not wait, and comes for its second before the others come for their first.
    assert went == [0, *list(range(8)) * 19, *range(1, 8)]


def test_a_pause_holds_everybody_back_also_who_waits_already(time):
    subject, went = bucket(time, burst=2), []
    began = time.clock()

    def work():
        for _ in range(3):
            subject.take(within=math.inf)
            went.append(round(time.clock() - began, 6))

    def refused():
        time.sleep(0.25)
        subject.pause(30)

    time.run(*[work] * 4, refused)
    before, after = [at for at in went if at < 0.25], [at for at in went if at >= 0.25]
    assert before == [0, 0, 0.1, 0.2]
    # Who waited for 0.3 goes as much later as the pause was long; nothing is made up for.
    assert after == pytest.approx([30.3 + n / 10 for n in range(8)])


def test_a_pause_leaves_nothing_of_the_burst(time):
    subject = bucket(time, burst=5)
    subject.pause(7)
    assert moments(time, subject, 3) == pytest.approx([7.1, 7.2, 7.3])


def test_pauses_that_overlap_end_with_the_last(time):
    subject = bucket(time)
    subject.pause(7)
    time.sleep(2)
    subject.pause(3)
    subject.pause(9)
    assert moments(time, subject, 1) == pytest.approx([9.1])


def test_pauses_hold_back_who_has_no_rate(time):
    subject = bucket(time, rate=math.inf)
    subject.pause(7)
    assert moments(time, subject, 3) == [7, 7, 7]


def test_who_would_wait_too_long_is_told_at_once_and_takes_no_turn(time):
    subject = bucket(time, rate=0.5)
    subject.take(within=0)
    for _ in range(10):
        with pytest.raises(BusyError) as caught:
            subject.take(within=1.9)
        assert (caught.value.code, caught.value.retry_after) == ("busy", 2)
    assert time.slept == []
    assert moments(time, subject, 1) == [2]


def test_who_is_held_back_too_long_by_a_pause_gives_up_when_its_time_is_over(time):
    subject = bucket(time)
    given_up = []

    def work():
        subject.take(within=5)
        with pytest.raises(BusyError) as caught:
            subject.take(within=5)
        given_up.append(caught.value.retry_after)

    def refused():
        time.sleep(0.05)
        subject.pause(60)

    time.run(work, refused)
    assert given_up == [60]

"""A token bucket's rate: whatever is asked and refused when, no window holds more than burst + rate x t."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st
from simulators.virtual_time import VirtualTime

from functions.token_bucket import BusyError, TokenBucket

RATES = st.floats(min_value=0.01, max_value=500)
BURSTS = st.integers(min_value=1, max_value=20)
SECONDS = st.floats(min_value=0, max_value=20)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.sampled_from([0.0, 0.5, math.inf])),
        st.tuples(st.just("sleep"), SECONDS),
        st.tuples(st.just("pause"), SECONDS),
    ),
    max_size=40,
)


def worker(time, bucket, steps, went, pauses):
    def work():
        for step, seconds in steps:
            if step == "sleep":
                time.sleep(seconds)
            elif step == "pause":
                pauses.append((time.clock(), time.clock() + seconds))
                bucket.pause(seconds)
            else:
                try:
                    bucket.take(within=seconds)
                except BusyError:
                    continue
                went.append(time.clock())

    return work


@given(rate=RATES, burst=BURSTS, workers=st.lists(STEPS, min_size=1, max_size=4))
def test_no_window_holds_more_than_the_burst_and_the_rate_and_no_pause_holds_any(rate, burst, workers):
    time, went, pauses = VirtualTime(), [], []
    bucket = TokenBucket("test", rate=rate, burst=burst, clock=time.clock, sleep=time.sleep)
    time.run(*(worker(time, bucket, steps, went, pauses) for steps in workers))
    for first, begin in enumerate(went):
        for last in range(first, len(went)):
            assert last - first + 1 <= burst + rate * (went[last] - begin) + 1e-3
    for begin, end in pauses:
        # A call that went at the very moment of the refusal had gone before it.
        assert not [at for at in went if begin < at < end - 1e-5]


@given(
    rate=RATES, burst=BURSTS, calls=st.lists(st.integers(min_value=0, max_value=15), min_size=2, max_size=8)
)
def test_nobody_starves_and_nothing_of_the_rate_is_lost(rate, burst, calls):
    time, done = VirtualTime(), []
    bucket = TokenBucket("test", rate=rate, burst=burst, clock=time.clock, sleep=time.sleep)
    began = time.clock()

    def work(count):
        for _ in range(count):
            bucket.take(within=math.inf)
        done.append(count)

    time.run(*(lambda count=count: work(count) for count in calls))
    assert sorted(done) == sorted(calls)
    least = max(0, sum(calls) - burst) / rate
    assert math.isclose(time.clock() - began, least, rel_tol=1e-6, abs_tol=1e-3)

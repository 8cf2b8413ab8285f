import pytest

from device_agent.backoff import Backoff


def test_waits_stay_between_the_first_and_a_bound_that_doubles():
    for _ in range(200):
        backoff = Backoff(first=2.0, longest=60.0)
        for bound in (2, 4, 8, 16, 32, 60, 60, 60):
            assert 2.0 <= backoff.after_failure() <= bound


def test_waits_are_spread_over_their_range():
    waits = []
    for _ in range(500):
        backoff = Backoff(first=1.0, longest=1024.0)
        for _ in range(11):
            wait = backoff.after_failure()
        waits.append(wait)

    assert min(waits) < 200
    assert max(waits) > 800


def test_success_starts_afresh():
    backoff = Backoff(first=1.0, longest=60.0)
    for _ in range(10):
        backoff.after_failure()

    backoff.reset()

    assert backoff.after_failure() == 1.0


def test_months_of_failures_overflow_nothing():
    backoff = Backoff(first=1.0, longest=60.0)

    waits = [backoff.after_failure() for _ in range(5000)]

    assert max(waits) == pytest.approx(60.0, abs=5)

"""How long a function may still take: never more than who called it, and its own again afterwards."""

from __future__ import annotations

import contextvars
import threading

import pytest

from functions.deadline import UNBOUNDED_SECONDS, remaining, within


def test_work_that_nobody_gave_a_bound_has_a_minute_for_each_wait():
    assert remaining() == UNBOUNDED_SECONDS


def test_what_remains_is_what_was_given_less_what_has_passed():
    with within(3600):
        first = remaining()
        assert 0 < remaining() <= first <= 3600
    assert remaining() == UNBOUNDED_SECONDS


@pytest.mark.parametrize(("outer", "inner"), [(7200, 3600), (3600, 7200)])
def test_nobody_is_given_more_than_there_was(outer, inner):
    with within(outer), within(inner):
        assert UNBOUNDED_SECONDS < remaining() <= 3600


def test_time_that_is_over_is_none_and_not_less():
    with within(-1):
        assert remaining() == 0


def test_a_thread_knows_of_it_in_a_copy_of_the_context_alone():
    found = []

    def look():
        found.append(remaining())

    with within(3600):
        context = contextvars.copy_context()
        for target in (look, lambda: context.run(look)):
            thread = threading.Thread(target=target)
            thread.start()
            thread.join()
    assert found[0] == UNBOUNDED_SECONDS < found[1]

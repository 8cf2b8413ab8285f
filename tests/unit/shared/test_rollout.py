"""Whom a share of the fleet reaches, and how far a rollout is."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import FormatError
from shared.rollout import MAX_STAGES, WHOLE, Rollout, RolloutState, bucket, read_rollout

PLAN = Rollout(stages=(100, 1000, WHOLE), pause_on_errors=200, acknowledged=9500)

plans = st.builds(
    lambda shares, stage, pause, acknowledged, aborted: Rollout(
        stages=(*sorted(shares - {WHOLE}), WHOLE),
        stage=stage % (len(shares - {WHOLE}) + 2),
        pause_on_errors=pause,
        acknowledged=acknowledged,
        is_aborted=aborted,
    ),
    st.sets(st.integers(1, WHOLE), max_size=MAX_STAGES - 1),
    st.integers(0, MAX_STAGES),
    st.integers(0, WHOLE),
    st.integers(1, WHOLE),
    st.booleans(),
)


@pytest.mark.parametrize(("device_id", "number"), [("edge-01", 1203), ("edge-02", 6398), ("a", 2250)])
def test_a_device_stands_where_it_always_stood(device_id, number):
    digest = hashlib.sha256(device_id.encode()).hexdigest()
    assert bucket(device_id) == int(digest[:16], 16) % 10_000 == number


@given(st.text(max_size=20), st.text(max_size=20))
def test_modules_stand_where_their_device_does(device, module):
    assert 0 <= bucket(device) < WHOLE
    assert bucket(f"{device}/{module}") == bucket(device)


def test_shares_are_as_large_as_they_say():
    reached = sum(Rollout(stages=(1000, WHOLE)).reaches(f"edge-{number}") for number in range(20_000))
    assert 1900 < reached < 2100


@given(st.text(max_size=20), st.integers(1, WHOLE - 1), st.integers(1, WHOLE - 1))
def test_a_larger_share_reaches_all_that_a_smaller_one_did(device_id, one, other):
    small, large = sorted((one, other))
    if Rollout(stages=(small, WHOLE)).reaches(device_id):
        assert Rollout(stages=(large, WHOLE)).reaches(device_id)
    assert Rollout(stages=(WHOLE,)).reaches(device_id)


def test_it_goes_through_its_stages_and_is_finished_behind_the_last_one():
    seen, rollout = [], PLAN
    while rollout.state is RolloutState.STAGED:
        seen.append(rollout.share)
        rollout = rollout.advanced()
    assert seen == [100, 1000, WHOLE]
    assert (rollout.state, rollout.share) == (RolloutState.FINISHED, WHOLE)
    assert rollout == PLAN.finished()
    with pytest.raises(FormatError):
        rollout.advanced()


def test_an_aborted_one_reaches_nobody():
    aborted = PLAN.advanced().aborted()
    assert (aborted.state, aborted.share, aborted.stage) == (RolloutState.ABORTED, 0, 1)
    assert not any(aborted.reaches(f"edge-{number}") for number in range(1000))


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"stages": ()}, "1 to 16 stages"),
        ({"stages": tuple(range(1, MAX_STAGES + 1))}, "last stage"),
        ({"stages": (*range(1, MAX_STAGES + 1), WHOLE)}, "1 to 16 stages"),
        ({"stages": (0, WHOLE)}, "more devices"),
        ({"stages": (500, 500, WHOLE)}, "more devices"),
        ({"stages": (500, 100, WHOLE)}, "more devices"),
        ({"stages": (500,)}, "last stage"),
        ({"stages": (500, WHOLE + 1)}, "last stage"),
        ({"stage": 4}, "stage 0 to 3"),
        ({"stage": -1}, "stage 0 to 3"),
        ({"pause_on_errors": WHOLE + 1}, "no share"),
        ({"pause_on_errors": -1}, "no share"),
        ({"acknowledged": 0}, "no share"),
    ],
)
def test_what_makes_no_sense_is_refused(wrong, told):
    with pytest.raises(FormatError, match=told):
        Rollout(**{"stages": PLAN.stages, **wrong})


@given(plans)
def test_its_text_is_read_back_and_fits_into_a_tag_of_the_vault(rollout):
    assert read_rollout(rollout.text(), where="test") == rollout
    assert len(rollout.text()) <= 128


@pytest.mark.parametrize(
    "text",
    [
        "",
        "staged",
        "staged:0:100,10000:200",
        "staged:0:100,10000:200:10000:",
        "staged:0:10000,100:200:10000",
        "staged:2:100,10000:200:10000",  # behind the last stage it is finished
        "finished:0:100,10000:200:10000",
        "aborted:0:100,99999:200:10000",
        "paused:0:100,10000:200:10000",
        "staged:0:100,10000:200:0",
        "staged:\u0660:100,10000:200:10000",
    ],
)
def test_another_text_is_refused_and_says_where(text):
    with pytest.raises(FormatError, match="somewhere: "):
        read_rollout(text, where="somewhere")

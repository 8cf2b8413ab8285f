"""The agent's rules, each on its own and against each other."""

import itertools

import pytest

from device_agent.decisions import RULES, Action, Situation, next_action

IDLE = {
    "cpm_known": True,
    "cpm_due": True,
    "connected": True,
    "hub_due": True,
    "twin_fresh": True,
    "desired_open": False,
    "report_open": False,
    "renewal_due": False,
    "poll_due": False,
}


def test_nothing_is_done_when_nothing_is_open():
    assert next_action(Situation(**IDLE)) is None


@pytest.mark.parametrize(
    ("change", "action"),
    [
        ({"cpm_known": False}, Action.IDENTIFY),
        ({"cpm_known": False, "cpm_due": False}, None),
        ({"connected": False}, Action.CONNECT),
        ({"connected": False, "hub_due": False}, None),
        ({"twin_fresh": False}, Action.READ_TWIN),
        ({"twin_fresh": False, "connected": False, "hub_due": False}, None),
        ({"desired_open": True}, Action.APPLY),
        ({"desired_open": True, "cpm_due": False}, None),
        ({"desired_open": True, "cpm_known": False, "cpm_due": False}, None),
        ({"desired_open": True, "connected": False, "hub_due": False}, Action.APPLY),
        ({"report_open": True}, Action.REPORT),
        ({"report_open": True, "connected": False, "hub_due": False}, None),
        ({"report_open": True, "desired_open": True}, Action.APPLY),
        ({"renewal_due": True}, Action.RENEW),
        ({"renewal_due": True, "cpm_known": False, "cpm_due": False}, None),
        ({"renewal_due": True, "report_open": True}, Action.RENEW),
        ({"renewal_due": True, "desired_open": True}, Action.APPLY),
        ({"poll_due": True}, Action.POLL),
        ({"poll_due": True, "report_open": True}, Action.REPORT),
    ],
)
def test_first_open_gap_is_closed_first(change, action):
    assert next_action(Situation(**{**IDLE, **change})) is action


def test_hub_is_only_talked_to_on_a_standing_connection():
    for values in itertools.product([False, True], repeat=len(IDLE)):
        situation = Situation(**dict(zip(IDLE, values, strict=True)))
        if next_action(situation) in {Action.READ_TWIN, Action.REPORT}:
            assert situation.connected


def test_every_action_has_one_rule():
    assert sorted(action.name for action, _ in RULES) == sorted(action.name for action in Action)

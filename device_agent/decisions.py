"""What the agent does next, as a table: a pure function of its situation.

The agent does not follow a script, it closes gaps: whatever happened, the first rule that holds names the
next action, and when none holds it waits. So a start, a reconnect, a new device key and a CPM that came back
are no special cases, and a crash anywhere ends in the same state.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Action(enum.Enum):
    """One step of the agent."""

    IDENTIFY = "ask the cpm for its device key and status"
    CONNECT = "connect to the hub"
    READ_TWIN = "read the whole twin"
    APPLY = "hand the desired keys to the cpm"
    REPORT = "send what the twin does not say yet"
    RENEW = "have the device certificate renewed"
    POLL = "look at the certificate file and the cpm's status"


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """All that the decision depends on.

    Args:
        cpm_known: The CPM answered, and nothing since says that it went away or changed its key.
        cpm_due: The wait after its last failure is over.
        connected: The connection to the hub stands.
        hub_due: The wait after its last failure is over.
        twin_fresh: The twin was read on this connection, and no patch was missed since.
        desired_open: A desired set is known that the CPM has not had yet.
        report_open: The twin does not say what it should.
        renewal_due: The certificate is old, or not the device key's, and its renewal may be tried.
        poll_due: The CPM and the certificate have not been looked at for a while.
    """

    cpm_known: bool
    cpm_due: bool
    connected: bool
    hub_due: bool
    twin_fresh: bool
    desired_open: bool
    report_open: bool
    renewal_due: bool
    poll_due: bool


RULES: tuple[tuple[Action, Callable[[Situation], bool]], ...] = (
    (Action.IDENTIFY, lambda now: not now.cpm_known and now.cpm_due),
    (Action.CONNECT, lambda now: not now.connected and now.hub_due),
    (Action.READ_TWIN, lambda now: now.connected and not now.twin_fresh),
    (Action.APPLY, lambda now: now.cpm_known and now.cpm_due and now.desired_open),
    # Before reporting: a twin without a certificate, for moments, would have the cloud withdraw every key.
    (Action.RENEW, lambda now: now.cpm_known and now.renewal_due),
    (Action.REPORT, lambda now: now.connected and now.twin_fresh and now.report_open),
    (Action.POLL, lambda now: now.poll_due),
)
"""The first rule that holds is the next action."""


def next_action(situation: Situation) -> Action | None:
    """Return the next action, or None to wait for an event or for the next wait to be over."""
    for action, holds in RULES:
        if holds(situation):
            return action
    return None

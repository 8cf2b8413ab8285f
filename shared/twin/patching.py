"""Turn a decision into the patch of a twin, once its keys are wrapped and its release is signed."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC
from typing import TYPE_CHECKING

from shared.errors import FormatError
from shared.twin.documents import KEYS, OUTCOME_TAG, RELEASE
from shared.twin.held import (
    REBIND,
    ROLLOUT,
    Outcome,
    OutcomeState,
    read_outcome,
    read_rebinding,
    read_rollouts,
)
from shared.twin.plan import Plan, basis_of
from shared.twin.reconcile import Decision, Deny, Write
from shared.twin.sections import patch_between
from shared.twin.settled import NOTE, Note, read_note

if TYPE_CHECKING:
    from datetime import datetime

    from shared.twin.held import Held
    from shared.twin.ports import Twin
    from shared.types import KeyName


def plan_of(decision: Decision) -> Plan | None:
    """Return what is to be wrapped and signed before the patch can be built, if anything."""
    return decision.plan if isinstance(decision, Write | Deny) else None


def writes_desired(decision: Decision) -> bool:
    """Whether carrying a decision out changes desired."""
    return plan_of(decision) is not None or (isinstance(decision, Deny) and decision.clear)


def build_patch(
    twin: Twin,
    held: Held,
    decision: Decision,
    *,
    wrapped: Mapping[KeyName, bytes],
    cose: bytes | None,
    at: datetime,
    note: Note | None = None,
) -> dict[str, object] | None:
    """Return the patch ``{"tags"?: …, "properties"?: {"desired": …}}``, or None if nothing is to be written.

    Args:
        twin: As the hub holds it.
        held: What its desired holds of ours.
        decision: What :func:`shared.twin.reconcile.reconcile` answered for it.
        wrapped: Every key of the decision's plan, wrapped; empty if it has none.
        cose: The signed release of the decision's plan; None if it has none.
        at: Now, aware; stands in the tag if the outcome is a new one.
        note: What the decision hung on; stands in the tag beside an outcome.

    An operator's word that binds the device to another key holds for one decision, whatever it was: if it
    stayed, it would let the holder of that key in again after the device had got another one. Only a set that
    did not fit has it kept, for nothing was bound then.

    Raises:
        FormatError: What was wrapped or signed is not what the plan says.
    """
    plan, outcome = plan_of(decision), decision.outcome
    if outcome is None:  # it takes no part, and is told nothing
        return None
    patch: dict[str, object] = {}
    if plan is not None:
        if plan.keys.keys() != wrapped.keys() or plan.is_signed != (cose is not None):
            raise FormatError(f"{twin.device_id}: the wrapped keys or the release do not fit the plan")
        patch["properties"] = {"desired": plan.desired(held, wrapped, cose)}
        if not plan.is_signed:
            outcome = Outcome(state=outcome.state, reason=outcome.reason, basis=basis_of(plan, wrapped))
    elif isinstance(decision, Deny) and decision.clear:
        patch["properties"] = {"desired": {KEYS: None, RELEASE: None}}
    tag = {} if read_outcome(twin.tags) == outcome else _tag(outcome, at)
    if read_rebinding(twin.tags) is not None and outcome.state is not OutcomeState.OVER_BUDGET:
        tag[REBIND] = None
    if note is not None and note != read_note(twin.tags):
        tag[NOTE] = note.tag()
    if "properties" in patch:
        tag |= _rollouts(twin, plan)
    if tag:
        patch["tags"] = {OUTCOME_TAG: tag}
    return patch or None


def _rollouts(twin: Twin, plan: Plan | None) -> dict[str, object]:
    """Return the patch of what the tag tells of staged versions, once the plan is carried out.

    It goes with what it tells of and is written for nothing else: what an ended rollout left behind stands
    there until the device is written for another reason.
    """
    told = read_rollouts(twin.tags)
    keys = {} if plan is None else plan.keys
    staged: dict[str, object] = {name: key.version for name, key in keys.items() if key.is_staged}
    if told is None and not staged:
        return {}
    if not staged or not isinstance(told, Mapping):
        return {ROLLOUT: staged or None}
    changes = patch_between(told, staged)
    return {ROLLOUT: changes} if changes else {}


def _tag(outcome: Outcome, at: datetime) -> dict[str, object]:
    """Return the tag as a patch; a null deletes what an earlier outcome left there."""
    return {
        "state": outcome.state.value,
        "reason": outcome.reason,
        "retries": outcome.retries or None,
        "basis": outcome.basis,
        "at": f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}",
    }

"""ChangeRollout: take a version of a class key further on its way to the fleet, or give it up.

Nothing here goes on by itself: a rollout stands where it is until somebody moves it. Who does says where they
have found it, so of two who saw the same, one moves it and the other is told.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from functions.contract import Call, Contract, HttpFunctions, Tag
from functions.distribution_messages import PassMessage
from functions.operations import on_record, record_of
from shared.rollout import Rollout
from shared.wire.rollout import (
    ABORT,
    ADVANCE,
    FINISH,
    ChangeRolloutAnswer,
    ChangeRolloutRequest,
    RolloutDescription,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from functions.services import Services

_MOVES: Mapping[str, Callable[[Rollout], Rollout]] = {
    ADVANCE: Rollout.advanced,
    FINISH: Rollout.finished,
    ABORT: Rollout.aborted,
}

CHANGE_ROLLOUT = Contract(
    name="ChangeRollout",
    method="POST",
    route="ChangeRollout",
    tag=Tag.PROVISIONING,
    summary="Give a staged version of a class key to more devices, or to none any more",
    body=ChangeRolloutRequest,
    answer=ChangeRolloutAnswer,
    problems=("key_not_found", "name_taken", "rollout_changed", "key_disabled", "audit_unavailable"),
    asks_for_pass=True,
)


def blueprint(services: Callable[[], Services]) -> HttpFunctions:
    """Return the function.

    Args:
        services: Puts the services together at the first call.
    """
    functions = HttpFunctions()

    @functions.serve(CHANGE_ROLLOUT)
    def change_rollout(call: Call) -> ChangeRolloutAnswer:
        return _change(services(), call, ChangeRolloutRequest.parse(call.body))

    return functions


def _change(services: Services, call: Call, asked: ChangeRolloutRequest) -> ChangeRolloutAnswer:
    record = record_of(
        services, call, f"{asked.action}_rollout", key_name=asked.key_name, key_version=asked.version
    )
    with on_record(services, record) as note:
        moved = services.class_keys.move_rollout(
            asked.key_name, version=asked.version, stage=asked.stage, move=_MOVES[asked.action]
        )
        call.put_pass(PassMessage(cause=asked.action, correlation_id=call.correlation_id).encode())
        note(detail=moved.text())
    return ChangeRolloutAnswer(key_name=asked.key_name, rollout=RolloutDescription.of(asked.version, moved))

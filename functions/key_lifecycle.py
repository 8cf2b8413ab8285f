"""RewrapEnvelopes, DeleteKey, RecoverKey: what an operator does to class keys now and then.

Each can be repeated: what was cut off is finished by the next call, and what is done already stays as it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from functions.contract import Call, Contract, HttpFunctions, Tag
from functions.distribution_messages import PassMessage
from functions.operations import on_record, record_of
from shared.wire.http import DeleteAnswer, KeyRequest, RecoverAnswer, RewrapAnswer, RewrapRequest

if TYPE_CHECKING:
    from collections.abc import Callable

    from functions.services import Services

REWRAP_ENVELOPES = Contract(
    name="RewrapEnvelopes",
    method="POST",
    route="RewrapEnvelopes",
    tag=Tag.PROVISIONING,
    summary="Seal a part of the envelopes under the newest version of the key encryption key",
    body=RewrapRequest,
    body_is_required=False,
    answer=RewrapAnswer,
    problems=("key_not_found", "name_taken", "audit_unavailable"),
)
DELETE_KEY = Contract(
    name="DeleteKey",
    method="POST",
    route="DeleteKey",
    tag=Tag.PROVISIONING,
    summary="Delete a class key that is revoked as a whole, recoverably",
    body=KeyRequest,
    answer=DeleteAnswer,
    problems=("key_not_found", "name_taken", "key_in_use", "audit_unavailable"),
    asks_for_pass=True,
)
RECOVER_KEY = Contract(
    name="RecoverKey",
    method="POST",
    route="RecoverKey",
    tag=Tag.PROVISIONING,
    summary="Bring a deleted class key back, revoked as it was",
    body=KeyRequest,
    answer=RecoverAnswer,
    problems=("key_not_found", "name_taken", "audit_unavailable"),
    asks_for_pass=True,
)


def blueprint(services: Callable[[], Services]) -> HttpFunctions:
    """Return the functions.

    Args:
        services: Puts the services together at the first call.
    """
    functions = HttpFunctions()

    @functions.serve(REWRAP_ENVELOPES)
    def rewrap_envelopes(call: Call) -> RewrapAnswer:
        return _rewrap(services(), call, RewrapRequest.parse(call.body))

    @functions.serve(DELETE_KEY)
    def delete_key(call: Call) -> DeleteAnswer:
        return _delete(services(), call, KeyRequest.parse(call.body))

    @functions.serve(RECOVER_KEY)
    def recover_key(call: Call) -> RecoverAnswer:
        return _recover(services(), call, KeyRequest.parse(call.body))

    return functions


def _rewrap(services: Services, call: Call, asked: RewrapRequest) -> RewrapAnswer:
    """Seal a part of the envelopes anew; nothing changes for devices, so no pass is asked for."""
    with on_record(services, record_of(services, call, "rewrap", key_name=asked.key_name)):
        done = services.class_keys.rewrap(asked.key_name)
    return RewrapAnswer(rewrapped=done.rewrapped, remaining=done.remaining, kek_version=done.kid)


def _delete(services: Services, call: Call, asked: KeyRequest) -> DeleteAnswer:
    with on_record(services, record_of(services, call, "delete", key_name=asked.key_name)):
        until = services.class_keys.delete(asked.key_name)
    call.put_pass(PassMessage(cause="delete", correlation_id=call.correlation_id).encode())
    told = None if until is None else f"{until:%Y-%m-%dT%H:%M:%SZ}"
    return DeleteAnswer(key_name=asked.key_name, recoverable_until=told)


def _recover(services: Services, call: Call, asked: KeyRequest) -> RecoverAnswer:
    with on_record(services, record_of(services, call, "recover", key_name=asked.key_name)):
        services.class_keys.recover(asked.key_name)
    call.put_pass(PassMessage(cause="recover", correlation_id=call.correlation_id).encode())
    return RecoverAnswer(key_name=asked.key_name)

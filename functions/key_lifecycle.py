"""RewrapEnvelopes, DeleteKey, RecoverKey: what an operator does to class keys now and then.

Each can be repeated: what was cut off is finished by the next call, and what is done already stays as it is.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import azure.functions as func

from functions.audit import AuditRecord, write_record
from functions.distribution_messages import PassMessage
from functions.endpoint import PASSES_QUEUE, QUEUE_CONNECTION, Answer, respond
from shared.errors import EdbError
from shared.wire.http import KeyRequest, RewrapRequest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from functions.services import Services
    from shared.types import KeyName

_AUTH = func.AuthLevel.FUNCTION


def blueprint(services: Callable[[], Services]) -> func.Blueprint:
    """Return the functions.

    Args:
        services: Puts the services together at the first call.
    """
    functions = func.Blueprint()  # type: ignore[no-untyped-call] # the SDK leaves it untyped

    @functions.function_name(name="RewrapEnvelopes")
    @functions.route(route="RewrapEnvelopes", methods=["POST"], auth_level=_AUTH)
    def rewrap_envelopes(req: func.HttpRequest) -> func.HttpResponse:
        return respond(req, lambda correlation: _rewrap(services(), req, correlation))

    @functions.function_name(name="DeleteKey")
    @functions.route(route="DeleteKey", methods=["POST"], auth_level=_AUTH)
    @functions.queue_output(arg_name="passes", queue_name=PASSES_QUEUE, connection=QUEUE_CONNECTION)
    def delete_key(req: func.HttpRequest, passes: func.Out[str]) -> func.HttpResponse:
        return respond(req, lambda correlation: _delete(services(), req, passes, correlation))

    @functions.function_name(name="RecoverKey")
    @functions.route(route="RecoverKey", methods=["POST"], auth_level=_AUTH)
    @functions.queue_output(arg_name="passes", queue_name=PASSES_QUEUE, connection=QUEUE_CONNECTION)
    def recover_key(req: func.HttpRequest, passes: func.Out[str]) -> func.HttpResponse:
        return respond(req, lambda correlation: _recover(services(), req, passes, correlation))

    return functions


def _rewrap(services: Services, req: func.HttpRequest, correlation_id: str) -> Answer:
    """Seal a part of the envelopes anew; nothing changes for devices, so no pass is asked for."""
    asked = RewrapRequest.parse(req.get_body())
    with _audited("rewrap", asked.key_name, correlation_id):
        done = services.class_keys.rewrap(asked.key_name)
    return Answer(
        document={"rewrapped": done.rewrapped, "remaining": done.remaining, "kek_version": done.kid}
    )


def _delete(services: Services, req: func.HttpRequest, passes: func.Out[str], correlation_id: str) -> Answer:
    asked = KeyRequest.parse(req.get_body())
    with _audited("delete", asked.key_name, correlation_id):
        until = services.class_keys.delete(asked.key_name)
    passes.set(PassMessage(cause="delete", correlation_id=correlation_id).encode())
    told = None if until is None else f"{until:%Y-%m-%dT%H:%M:%SZ}"
    return Answer(document={"key_name": asked.key_name, "recoverable_until": told})


def _recover(services: Services, req: func.HttpRequest, passes: func.Out[str], correlation_id: str) -> Answer:
    asked = KeyRequest.parse(req.get_body())
    with _audited("recover", asked.key_name, correlation_id):
        services.class_keys.recover(asked.key_name)
    passes.set(PassMessage(cause="recover", correlation_id=correlation_id).encode())
    return Answer(document={"key_name": asked.key_name})


@contextmanager
def _audited(event: str, key_name: KeyName | None, correlation_id: str) -> Iterator[None]:
    """Write what became of an operation, whatever became of it."""
    record = AuditRecord(event=event, outcome="allowed", correlation_id=correlation_id, key_name=key_name)
    try:
        yield
    except EdbError as error:
        write_record(replace(record, outcome="failed", reason=error.code, detail=str(error)))
        raise
    write_record(record)

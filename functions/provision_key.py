"""ProvisionKey, ImportKey, RotateKey, RevokeKey: the life of class keys over HTTP (protocol section 3).

Each asks for a distribution pass when it changed something, so that devices need not wait for the timer.
"""

from __future__ import annotations

import base64
from contextlib import contextmanager
from dataclasses import replace
from http import HTTPStatus
from typing import TYPE_CHECKING

import azure.functions as func

from functions.audit import AuditRecord, write_record
from functions.distribution_messages import PassMessage
from functions.endpoint import PASSES_QUEUE, QUEUE_CONNECTION, Answer, MethodNotAllowedError, respond
from shared.errors import EdbError
from shared.wire.http import (
    ImportRequest,
    ProvisionAnswer,
    ProvisionRequest,
    RevokeRequest,
    RotateRequest,
)

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

    # GET is taken here to be refused: the reference created keys on GET, and a link must never do that.
    @functions.function_name(name="ProvisionKey")
    @functions.route(route="ProvisionKey", methods=["GET", "POST"], auth_level=_AUTH)
    @functions.queue_output(arg_name="passes", queue_name=PASSES_QUEUE, connection=QUEUE_CONNECTION)
    def provision_key(req: func.HttpRequest, passes: func.Out[str]) -> func.HttpResponse:
        return respond(req, lambda correlation: _provision(services(), req, passes, correlation))

    @functions.function_name(name="ProvisionKeyNamed")
    @functions.route(route="ProvisionKey/{key_name}", methods=["GET", "POST"], auth_level=_AUTH)
    @functions.queue_output(arg_name="passes", queue_name=PASSES_QUEUE, connection=QUEUE_CONNECTION)
    def provision_key_named(req: func.HttpRequest, passes: func.Out[str]) -> func.HttpResponse:
        return respond(req, lambda correlation: _provision(services(), req, passes, correlation))

    @functions.function_name(name="ImportKey")
    @functions.route(route="ImportKey", methods=["POST"], auth_level=_AUTH)
    @functions.queue_output(arg_name="passes", queue_name=PASSES_QUEUE, connection=QUEUE_CONNECTION)
    def import_key(req: func.HttpRequest, passes: func.Out[str]) -> func.HttpResponse:
        return respond(req, lambda correlation: _import(services(), req, passes, correlation))

    @functions.function_name(name="ImportKeyPublic")
    @functions.route(route="ImportKey", methods=["GET"], auth_level=_AUTH)
    def import_key_public(req: func.HttpRequest) -> func.HttpResponse:
        return respond(req, lambda _: _public_half(services()))

    @functions.function_name(name="RotateKey")
    @functions.route(route="RotateKey", methods=["POST"], auth_level=_AUTH)
    @functions.queue_output(arg_name="passes", queue_name=PASSES_QUEUE, connection=QUEUE_CONNECTION)
    def rotate_key(req: func.HttpRequest, passes: func.Out[str]) -> func.HttpResponse:
        return respond(req, lambda correlation: _rotate(services(), req, passes, correlation))

    @functions.function_name(name="RevokeKey")
    @functions.route(route="RevokeKey", methods=["POST"], auth_level=_AUTH)
    @functions.queue_output(arg_name="passes", queue_name=PASSES_QUEUE, connection=QUEUE_CONNECTION)
    def revoke_key(req: func.HttpRequest, passes: func.Out[str]) -> func.HttpResponse:
        return respond(req, lambda correlation: _revoke(services(), req, passes, correlation))

    return functions


def _provision(
    services: Services, req: func.HttpRequest, passes: func.Out[str], correlation_id: str
) -> Answer:
    if req.method != "POST":
        raise MethodNotAllowedError("POST")
    asked = ProvisionRequest.parse(req.get_body(), route_name=req.route_params.get("key_name"))
    with _audited("provision", asked.key_name, 1, correlation_id):
        services.class_keys.provision(asked.key_name, bits=asked.bits)
    passes.set(PassMessage(cause="provision", correlation_id=correlation_id).encode())
    return Answer(
        document=ProvisionAnswer(key_name=asked.key_name, version=1, bits=asked.bits).encode(),
        status=HTTPStatus.CREATED,
    )


def _import(services: Services, req: func.HttpRequest, passes: func.Out[str], correlation_id: str) -> Answer:
    asked = ImportRequest.parse(req.get_body())
    with _audited("import", asked.key_name, 1, correlation_id):
        bits = services.class_keys.import_key(asked.key_name, asked.wrapped_key, kid=asked.kid)
    passes.set(PassMessage(cause="import", correlation_id=correlation_id).encode())
    return Answer(
        document=ProvisionAnswer(key_name=asked.key_name, version=1, bits=bits).encode(),
        status=HTTPStatus.CREATED,
    )


def _public_half(services: Services) -> Answer:
    """Return the KEK's public half as a JWK (RFC 7517)."""
    kek = services.kek.current()
    numbers = kek.public_key.public_numbers()
    return Answer(
        document={
            "kty": "RSA",
            "use": "enc",
            "alg": "RSA-OAEP-256",
            "kid": kek.kid,
            "n": _unsigned(numbers.n),
            "e": _unsigned(numbers.e),
        }
    )


def _unsigned(number: int) -> str:
    """Return Base64urlUInt (RFC 7518 section 2)."""
    data = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _rotate(services: Services, req: func.HttpRequest, passes: func.Out[str], correlation_id: str) -> Answer:
    asked = RotateRequest.parse(req.get_body())
    with _audited("rotate", asked.key_name, None, correlation_id) as note:
        version = services.class_keys.rotate(asked.key_name)
        note(version)
    passes.set(PassMessage(cause="rotate", correlation_id=correlation_id).encode())
    return Answer(document={"key_name": asked.key_name, "version": version})


def _revoke(services: Services, req: func.HttpRequest, passes: func.Out[str], correlation_id: str) -> Answer:
    asked = RevokeRequest.parse(req.get_body())
    with _audited("revoke", asked.key_name, asked.version, correlation_id):
        floor = services.class_keys.revoke(asked.key_name, asked.version)
    passes.set(PassMessage(cause="revoke", correlation_id=correlation_id).encode())
    return Answer(document={"key_name": asked.key_name, "floor": floor})


@contextmanager
def _audited(
    event: str, key_name: KeyName, version: int | None, correlation_id: str
) -> Iterator[Callable[[int], None]]:
    """Write what became of an operation, whatever became of it; gives what notes the version it made."""
    record = AuditRecord(
        event=event,
        outcome="allowed",
        correlation_id=correlation_id,
        key_name=key_name,
        key_version=version,
    )
    made = [version]
    try:
        yield made.append
    except EdbError as error:
        write_record(replace(record, outcome="failed", reason=error.code, detail=str(error)))
        raise
    write_record(replace(record, key_version=made[-1]))

"""ProvisionKey, ImportKey, RotateKey, RevokeKey: the life of class keys over HTTP (protocol section 3).

Each asks for a distribution pass when it changed something, so that devices need not wait for the timer.
"""

from __future__ import annotations

import base64
import hashlib
from contextlib import contextmanager
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from functions.contract import Call, Contract, HttpFunctions, Tag
from functions.distribution_messages import PassMessage
from functions.operations import on_record, record_of
from functions.repetition import Made, Repeatable, once
from shared.wire import values
from shared.wire.http import (
    ImportRequest,
    KekAnswer,
    NamedProvisionRequest,
    ProvisionAnswer,
    ProvisionRequest,
    RevokeAnswer,
    RevokeRequest,
    RotateAnswer,
    RotateRequest,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from functions.services import Services
    from shared.types import KeyName

_OF_CREATING = ("key_exists", "name_taken", "key_deleted", "audit_unavailable")

PROVISION_KEY = Contract(
    name="ProvisionKey",
    method="POST",
    route="ProvisionKey",
    tag=Tag.PROVISIONING,
    summary="Make version 1 of a new class key",
    body=ProvisionRequest,
    status=HTTPStatus.CREATED,
    answer=ProvisionAnswer,
    problems=_OF_CREATING,
    asks_for_pass=True,
    is_repeatable=True,
    # The reference created keys on GET; a link must never do that, and says so.
    refused=("GET",),
)
PROVISION_KEY_NAMED = Contract(
    name="ProvisionKeyNamed",
    method="POST",
    route="ProvisionKey/{key_name}",
    tag=Tag.PROVISIONING,
    summary="Make version 1 of a new class key that the route names",
    path={"key_name": values.KEY_NAME},
    body=NamedProvisionRequest,
    body_is_required=False,
    status=HTTPStatus.CREATED,
    answer=ProvisionAnswer,
    problems=(*_OF_CREATING, "name_invalid"),
    asks_for_pass=True,
    is_repeatable=True,
    refused=("GET",),
)
IMPORT_KEY = Contract(
    name="ImportKey",
    method="POST",
    route="ImportKey",
    tag=Tag.PROVISIONING,
    summary="Take a key of the caller's own as version 1 of a new class key",
    body=ImportRequest,
    status=HTTPStatus.CREATED,
    answer=ProvisionAnswer,
    problems=(*_OF_CREATING, "wrapped_key_invalid", "key_not_found"),
    asks_for_pass=True,
    is_repeatable=True,
)
IMPORT_KEY_PUBLIC = Contract(
    name="ImportKeyPublic",
    method="GET",
    route="ImportKey",
    tag=Tag.PROVISIONING,
    summary="The public key to wrap a key of one's own under",
    answer=KekAnswer,
)
ROTATE_KEY = Contract(
    name="RotateKey",
    method="POST",
    route="RotateKey",
    tag=Tag.PROVISIONING,
    summary="Make the next version of a class key",
    body=RotateRequest,
    answer=RotateAnswer,
    problems=(
        *("key_not_found", "name_taken", "key_deleted", "version_exists", "conflict"),
        *("rollout_unfinished", "audit_unavailable"),
    ),
    asks_for_pass=True,
    is_repeatable=True,
)
REVOKE_KEY = Contract(
    name="RevokeKey",
    method="POST",
    route="RevokeKey",
    tag=Tag.PROVISIONING,
    summary="Revoke a version of a class key, and all older ones",
    body=RevokeRequest,
    answer=RevokeAnswer,
    problems=("key_not_found", "name_taken", "conflict", "rollout_unfinished", "audit_unavailable"),
    asks_for_pass=True,
)


def blueprint(services: Callable[[], Services]) -> HttpFunctions:
    """Return the functions.

    Args:
        services: Puts the services together at the first call.
    """
    functions = HttpFunctions()

    @functions.serve(PROVISION_KEY)
    def provision_key(call: Call) -> ProvisionAnswer:
        return _provision(services(), call, ProvisionRequest.parse(call.body))

    @functions.serve(PROVISION_KEY_NAMED)
    def provision_key_named(call: Call) -> ProvisionAnswer:
        asked = NamedProvisionRequest.parse(call.body, route_name=call.route.get("key_name"))
        return _provision(services(), call, asked)

    @functions.serve(IMPORT_KEY)
    def import_key(call: Call) -> ProvisionAnswer:
        return _import(services(), call, ImportRequest.parse(call.body))

    @functions.serve(IMPORT_KEY_PUBLIC)
    def import_key_public(_call: Call) -> KekAnswer:
        return _public_half(services())

    @functions.serve(ROTATE_KEY)
    def rotate_key(call: Call) -> RotateAnswer:
        return _rotate(services(), call, RotateRequest.parse(call.body))

    @functions.serve(REVOKE_KEY)
    def revoke_key(call: Call) -> RevokeAnswer:
        return _revoke(services(), call, RevokeRequest.parse(call.body))

    return functions


def _provision(services: Services, call: Call, asked: ProvisionRequest) -> ProvisionAnswer:
    name, keys = asked.key_name, services.class_keys
    repeatable = Repeatable.of(call.headers, "provision", key_name=name, bits=asked.bits)

    def make() -> int:
        keys.provision(name, bits=asked.bits, request=_note(repeatable))
        return 1

    with _making(services, call, "provision", name, key_version=1) as note:
        note(once(repeatable, lambda: keys.requests(name), make))
    _ask_for_pass(call, "provision")
    return _created(name, asked.bits)


def _import(services: Services, call: Call, asked: ImportRequest) -> ProvisionAnswer:
    name, keys = asked.key_name, services.class_keys
    wrapped = hashlib.sha256(asked.wrapped_key).hexdigest()
    repeatable = Repeatable.of(call.headers, "import", key_name=name, wrapped=wrapped, kid=asked.kid)

    strengths: list[int] = []

    def make() -> int:
        bits = keys.import_key(name, asked.wrapped_key, kid=asked.kid, request=_note(repeatable))
        strengths.append(bits)
        return 1

    with _making(services, call, "import", name, key_version=1) as note:
        note(once(repeatable, lambda: keys.requests(name), make))
        bits = strengths[0] if strengths else keys.state(name).key_bytes * 8  # rotation does not change it
    _ask_for_pass(call, "import")
    return _created(name, bits)


def _note(repeatable: Repeatable | None) -> str | None:
    return None if repeatable is None else repeatable.note


def _created(name: KeyName, bits: int) -> ProvisionAnswer:
    return ProvisionAnswer(message=f"class key {name} was created", key_name=name, version=1, bits=bits)


def _public_half(services: Services) -> KekAnswer:
    kek = services.kek.current()
    numbers = kek.public_key.public_numbers()
    return KekAnswer(kid=kek.kid, n=_unsigned(numbers.n), e=_unsigned(numbers.e))


def _unsigned(number: int) -> str:
    """Return Base64urlUInt (RFC 7518 section 2)."""
    data = number.to_bytes((number.bit_length() + 7) // 8, "big")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _rotate(services: Services, call: Call, asked: RotateRequest) -> RotateAnswer:
    """Make the next version; a repeated request answers the version that it made, whatever came after it."""
    name, keys = asked.key_name, services.class_keys
    rollout = asked.rollout
    staged = {} if rollout is None else {"rollout": rollout.text()}
    repeatable = Repeatable.of(call.headers, "rotate", key_name=name, **staged)
    with _making(services, call, "rotate", name, detail=staged.get("rollout")) as note:
        made = once(
            repeatable,
            lambda: keys.requests(name),
            lambda: keys.rotate(name, request=_note(repeatable), rollout=rollout),
        )
        note(made)
    _ask_for_pass(call, "rotate")
    return RotateAnswer(key_name=name, version=made.version)


def _revoke(services: Services, call: Call, asked: RevokeRequest) -> RevokeAnswer:
    record = record_of(services, call, "revoke", key_name=asked.key_name, key_version=asked.version)
    with on_record(services, record):
        floor = services.class_keys.revoke(asked.key_name, asked.version)
    _ask_for_pass(call, "revoke")
    return RevokeAnswer(key_name=asked.key_name, floor=floor)


def _ask_for_pass(call: Call, cause: str) -> None:
    """Ask for a pass; a repeated request asks, too: the first one may have died before it could."""
    call.put_pass(PassMessage(cause=cause, correlation_id=call.correlation_id).encode())


@contextmanager
def _making(
    services: Services,
    call: Call,
    event: str,
    key_name: KeyName,
    **about: Any,  # noqa: ANN401 - the record's own fields
) -> Iterator[Callable[[Made], None]]:
    """Put an operation that makes a version on record; gives what notes the version it made."""
    record = record_of(services, call, event, key_name=key_name, **about)
    with on_record(services, record) as note:
        yield lambda made: note(
            key_version=made.version, **({"reason": "repeated"} if made.is_repeated else {})
        )

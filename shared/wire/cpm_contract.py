"""What a Confidential Package Manager can be asked over its channel, as a table, and how it answers.

A request is ``{"op": text, …arguments}``, its reply ``{"ok": true, …}`` or
``{"ok": false, "code": text, "message": text, "kind"?: text, "hint"?: text}``. ``kind`` names the branch of
the error tree, so that an error is raised on the client's side as what it was on the server's; a peer that
leaves it out is understood by its codes. :mod:`shared.wire.cpm_channel` carries both.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shared.errors import (
    Conflict,
    EdbError,
    FormatError,
    KeyUnavailable,
    NotFound,
    PolicyDenied,
    StorageError,
    TransportError,
    VerificationError,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

CONTRACT = 1
"""Version of this contract, answered by ``ping``."""

MAX_TEXT = 4096
"""Most characters of a text argument, or of an error's message."""


class CpmOperation(enum.Enum):
    """What a CPM can be asked to do; the EDL's operations carry the EDL's names."""

    PING = "ping"
    IS_OPERATION_SUPPORTED = "is_operation_supported"
    GET_DEVICE_PUBLIC_KEY_DATA_SIZE = "get_device_public_key_data_size"
    EXPORT_DEVICE_PUBLIC_KEY = "export_device_public_key"
    INSTALL_APPLICATION_KEY = "install_application_key"
    DEVICE_PUBLIC_KEY = "device_public_key"
    APPLY_RELEASE = "apply_release"
    STATUS = "status"
    INSTALL = "install"
    LIST = "list"
    UNINSTALL = "uninstall"
    RUN = "run"
    STREAM = "stream"


class ArgumentKind(enum.Enum):
    """The types that an argument may have."""

    TEXT = f"text of at most {MAX_TEXT} characters"
    BYTES = "bytes"
    TEXTS = f"a list of texts of at most {MAX_TEXT} characters"
    BYTES_BY_NAME = "a map of text to bytes"


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """What one operation takes.

    Args:
        arguments: Every argument's name and kind; all are required and no other is taken.
        fds: How many file descriptors come with the request.
    """

    arguments: Mapping[str, ArgumentKind] = field(default_factory=dict)
    fds: int = 0


SIGNATURES: Mapping[CpmOperation, Signature] = {
    CpmOperation.PING: Signature(),
    CpmOperation.IS_OPERATION_SUPPORTED: Signature(arguments={"operation": ArgumentKind.TEXT}),
    CpmOperation.GET_DEVICE_PUBLIC_KEY_DATA_SIZE: Signature(),
    CpmOperation.EXPORT_DEVICE_PUBLIC_KEY: Signature(),
    CpmOperation.INSTALL_APPLICATION_KEY: Signature(
        arguments={"application_id": ArgumentKind.TEXT, "wrapped_key": ArgumentKind.BYTES}
    ),
    CpmOperation.DEVICE_PUBLIC_KEY: Signature(),
    CpmOperation.APPLY_RELEASE: Signature(
        arguments={"release": ArgumentKind.BYTES, "wrapped_keys": ArgumentKind.BYTES_BY_NAME}
    ),
    CpmOperation.STATUS: Signature(),
    CpmOperation.INSTALL: Signature(fds=1),
    CpmOperation.LIST: Signature(),
    CpmOperation.UNINSTALL: Signature(arguments={"cp_id": ArgumentKind.TEXT}),
    CpmOperation.RUN: Signature(
        arguments={"cp_id": ArgumentKind.TEXT, "arguments": ArgumentKind.TEXTS}, fds=3
    ),
    CpmOperation.STREAM: Signature(arguments={"cp_id": ArgumentKind.TEXT}, fds=1),
}
"""The whole contract, as a table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request whose operation is known and whose arguments have the types of :data:`SIGNATURES`.

    Args:
        operation: What is asked for.
        arguments: Everything but ``op``.
    """

    operation: CpmOperation
    arguments: Mapping[str, object]


def parse_request(message: Mapping[str, object], *, fds: int) -> Request:
    """Check a request against :data:`SIGNATURES`.

    Args:
        message: A frame's map.
        fds: How many file descriptors came with it.

    Raises:
        FormatError: ``unsupported_operation``, or ``request_invalid`` naming the argument that is missing, of
            another type, or not known.
    """
    operation = _parse_operation(message.get("op"))
    signature = SIGNATURES[operation]
    arguments = {name: value for name, value in message.items() if name != "op"}
    for name, kind in signature.arguments.items():
        if name not in arguments or not _has_kind(arguments[name], kind):
            found = type(arguments[name]).__name__ if name in arguments else "nothing"
            raise _invalid(f"{operation.value}: argument {name}: expected {kind.value}, found {found}")
    for name in arguments.keys() - signature.arguments.keys():
        raise _invalid(f"{operation.value}: unknown argument {name[:64]!r}")
    if fds != signature.fds:
        raise _invalid(f"{operation.value}: expected {signature.fds} file descriptors, found {fds}")
    return Request(operation=operation, arguments=arguments)


def _parse_operation(name: object) -> CpmOperation:
    try:
        return CpmOperation(name)
    except ValueError as error:
        shown = repr(name[:64]) if isinstance(name, str) else type(name).__name__
        raise FormatError(
            f"request: {shown} is no operation of this cpm", code="unsupported_operation"
        ) from error


def _invalid(message: str) -> FormatError:
    return FormatError(message, code="request_invalid")


def _has_kind(value: object, kind: ArgumentKind) -> bool:
    match kind:
        case ArgumentKind.TEXT:
            return _is_text(value)
        case ArgumentKind.BYTES:
            return isinstance(value, bytes)
        case ArgumentKind.TEXTS:
            return isinstance(value, list) and all(_is_text(item) for item in value)
        case ArgumentKind.BYTES_BY_NAME:
            return isinstance(value, dict) and all(
                _is_text(name) and isinstance(item, bytes) for name, item in value.items()
            )


def _is_text(value: object) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT


_BRANCHES: Mapping[str, type[EdbError]] = {
    "format": FormatError,
    "verification": VerificationError,
    "policy": PolicyDenied,
    "key": KeyUnavailable,
    "conflict": Conflict,
    "not_found": NotFound,
    "transport": TransportError,
    "storage": StorageError,
}

# For a peer that sends no kind: a branch's default code, and the codes of the protocol's section 4.
_BRANCH_OF_CODE: Mapping[str, type[EdbError]] = {
    **{branch.default_code: branch for branch in _BRANCHES.values()},
    "cpm_unavailable": TransportError,
    "key_expired": KeyUnavailable,
    "key_revoked": KeyUnavailable,
    "name_invalid": FormatError,
    "request_invalid": FormatError,
    "unsupported_algorithm": FormatError,
    "unsupported_operation": FormatError,
    "certificate_expired": VerificationError,
    "certificate_not_yet_valid": VerificationError,
    "certificate_untrusted": VerificationError,
    "expired": VerificationError,
    "key_mismatch": VerificationError,
    "replay": VerificationError,
    "rollback": VerificationError,
    "signature_invalid": VerificationError,
    "unwrap_failed": VerificationError,
    "wrong_device": VerificationError,
}


def error_reply(error: EdbError) -> dict[str, object]:
    """Return the reply that tells a client of ``error``."""
    reply: dict[str, object] = {"ok": False, "code": error.code, "message": str(error)[:MAX_TEXT]}
    for kind, branch in _BRANCHES.items():
        if isinstance(error, branch):
            reply["kind"] = kind
    if error.hint is not None:
        reply["hint"] = error.hint[:MAX_TEXT]
    return reply


def read_reply(reply: Mapping[str, object]) -> dict[str, object]:
    """Return a good reply's fields without ``ok``.

    Raises:
        EdbError: What a bad reply tells, as the branch of the error tree that it belongs to.
        FormatError: It is neither.
    """
    accepted = reply.get("ok")
    if accepted is True:
        return {name: value for name, value in reply.items() if name != "ok"}
    code, message = reply.get("code"), reply.get("message")
    if accepted is not False or not isinstance(code, str) or not isinstance(message, str):
        raise FormatError("cpm reply: expected ok true, or ok false with code and message")
    hint, kind = reply.get("hint"), reply.get("kind")
    branch = _BRANCHES.get(kind) if isinstance(kind, str) else _BRANCH_OF_CODE.get(code)
    raise (branch or EdbError)(message, code=code, hint=hint if isinstance(hint, str) else None)

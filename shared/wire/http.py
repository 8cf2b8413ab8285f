"""JSON of the HTTP contracts: requests read strictly, answers and problems written (protocol section 3).

A request's faults are all told together, each with its JSON pointer (RFC 6901) or its query parameter's name.
Unknown fields are ignored, as version 1 of the contracts does. Errors leave as ``application/problem+json``
(RFC 9457) with a stable ``code``. What stands here is also what the OpenAPI document says.

Example:
    >>> ProvisionRequest.parse(b'{"key_name": "app", "strength": 128}').bits
    128
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from shared.types import parse_key_name
from shared.wire import request_fields as read
from shared.wire import values
from shared.wire.objects import encode, list_of, map_of, read_object, wire
from shared.wire.request_fields import FieldFault, Fields, InvalidRequestError
from shared.wire.rollout import ROLLOUT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from http import HTTPStatus

    from cryptography import x509

    from shared.errors import EdbError
    from shared.public_keys import PublicKey
    from shared.rollout import Rollout
    from shared.types import KeyName, WrapAlgorithm


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisionRequest:
    """``POST /api/ProvisionKey``: make version 1 of a class key of ``bits`` bits."""

    key_name: KeyName = field(metadata=wire(values.KEY_NAME, "The new class key's name."))
    algorithm: str = field(
        default=read.KEY_ALGORITHM, metadata=wire(values.KEY_ALGORITHM, "What the class key is for.")
    )
    bits: int = field(
        default=read.DEFAULT_STRENGTH,
        metadata=wire(values.STRENGTH, "Strength in bits, text or number; 256 by default.", name="strength"),
    )

    @classmethod
    def parse(cls, body: bytes) -> ProvisionRequest:
        """Read the body.

        Raises:
            FormatError: ``body_too_large``, no JSON object, or :class:`InvalidRequestError` with every fault.
        """
        return read_object(cls, Fields(body))


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedProvisionRequest:
    """``POST /api/ProvisionKey/{key_name}``: the route names the key, and the body may repeat it."""

    key_name: KeyName | None = field(
        default=None, metadata=wire(values.KEY_NAME, "If it is there, the name in the route.")
    )
    algorithm: str = field(
        default=read.KEY_ALGORITHM, metadata=wire(values.KEY_ALGORITHM, "What the class key is for.")
    )
    bits: int = field(
        default=read.DEFAULT_STRENGTH,
        metadata=wire(values.STRENGTH, "Strength in bits, text or number; 256 by default.", name="strength"),
    )

    @classmethod
    def parse(cls, body: bytes, *, route_name: str | None) -> ProvisionRequest:
        """Read the body, which may be empty, beside the name in the route.

        Raises:
            FormatError: ``name_invalid`` in the route; as for :meth:`ProvisionRequest.parse`;
                ``name_conflict`` if the two disagree.
        """
        name = parse_key_name(route_name, where="route")
        fields = Fields(body)
        if fields.read("key_name", values.KEY_NAME.read, name) != name:
            fields.fault("key_name", "name_conflict", f"/key_name: expected {name!r} as in the route")
        asked = read_object(cls, fields)
        return ProvisionRequest(key_name=name, algorithm=asked.algorithm, bits=asked.bits)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """``POST /api/ImportKey``: take a key that was wrapped under the KEK's public half."""

    key_name: KeyName = field(metadata=wire(values.KEY_NAME, "The new class key's name."))
    wrapped_key: bytes = field(
        metadata=wire(
            values.WRAPPED_KEY, "Base64 of RSA-OAEP-256, without a label, over 16, 24 or 32 key bytes."
        )
    )
    algorithm: WrapAlgorithm | None = field(
        default=None, metadata=wire(values.IMPORT_ALGORITHM, "How the key is wrapped; there is one way.")
    )
    kid: str | None = field(
        default=None,
        metadata=wire(values.TEXT, "The version of the key encryption key; the current one by default."),
    )

    @classmethod
    def parse(cls, body: bytes) -> ImportRequest:
        """Read the body.

        Raises:
            FormatError: As for :meth:`ProvisionRequest.parse`.
        """
        return read_object(cls, Fields(body))


@dataclass(frozen=True, slots=True, kw_only=True)
class RotateRequest:
    """``POST /api/RotateKey``: make the next version of a class key."""

    key_name: KeyName = field(metadata=wire(values.KEY_NAME, "The class key."))
    rollout: Rollout | None = field(
        default=None, metadata=wire(ROLLOUT, "Its way to the fleet in stages; to all at once by default.")
    )

    @classmethod
    def parse(cls, body: bytes) -> RotateRequest:
        """Read the body.

        Raises:
            FormatError: As for :meth:`ProvisionRequest.parse`.
        """
        return read_object(cls, Fields(body))


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeRequest:
    """``POST /api/RevokeKey``: revoke a version of a class key, and all older ones."""

    key_name: KeyName = field(metadata=wire(values.KEY_NAME, "The class key."))
    version: int = field(metadata=wire(values.VERSION, "The newest version to revoke."))

    @classmethod
    def parse(cls, body: bytes) -> RevokeRequest:
        """Read the body.

        Raises:
            FormatError: As for :meth:`ProvisionRequest.parse`.
        """
        return read_object(cls, Fields(body))


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRequest:
    """``POST /api/DeleteKey`` and ``POST /api/RecoverKey``: a class key as a whole."""

    key_name: KeyName = field(metadata=wire(values.KEY_NAME, "The class key."))

    @classmethod
    def parse(cls, body: bytes) -> KeyRequest:
        """Read the body.

        Raises:
            FormatError: As for :meth:`ProvisionRequest.parse`.
        """
        return read_object(cls, Fields(body))


@dataclass(frozen=True, slots=True, kw_only=True)
class RewrapRequest:
    """``POST /api/RewrapEnvelopes``: seal envelopes anew, of one class key or, if it is None, of all."""

    key_name: KeyName | None = field(
        default=None, metadata=wire(values.KEY_NAME, "One class key; all of them by default.")
    )

    @classmethod
    def parse(cls, body: bytes) -> RewrapRequest:
        """Read the body; it may be empty.

        Raises:
            FormatError: As for :meth:`ProvisionRequest.parse`.
        """
        return read_object(cls, Fields(body))


@dataclass(frozen=True, slots=True, kw_only=True)
class WrapRequest:
    """``POST /api/WrapKey``: wrap a class key for the caller's public key."""

    key_name: KeyName = field(metadata=wire(values.KEY_NAME, "The class key."))
    public_key: PublicKey = field(
        metadata=wire(
            values.PUBLIC_KEY,
            "The caller's public key, base64 of a DER SubjectPublicKeyInfo: RSA of 2048 to 4096 bits with "
            "exponent 65537, EC P-256, or X25519.",
            name="client_public_key",
        )
    )
    certificates: tuple[x509.Certificate, ...] = field(
        default=(),
        metadata=wire(
            values.CERTIFICATES,
            "The caller's certificate over that key, PEM or base64 of DER; a chain has its leaf first.",
            name="client_cert",
        ),
    )
    algorithm: WrapAlgorithm | None = field(
        default=None,
        metadata=wire(values.WRAP_ALGORITHM, "How to wrap; by default the first of the policy's rule."),
    )
    key_version: int | None = field(
        default=None,
        metadata=wire(
            values.VERSION, "The version asked for; by default the newest one that is there for all."
        ),
    )

    @classmethod
    def parse(cls, body: bytes) -> WrapRequest:
        """Read the body.

        Raises:
            FormatError: As for :meth:`ProvisionRequest.parse`.
        """
        return read_object(cls, Fields(body))


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisionAnswer:
    """201 of ProvisionKey and ImportKey."""

    message: str = field(metadata=wire(values.TEXT, "For people."))
    key_name: KeyName = field(metadata=wire(values.KEY_NAME, "The class key."))
    version: int = field(metadata=wire(values.VERSION, "The version that was made: 1."))
    algorithm: str = field(
        default=read.KEY_ALGORITHM, metadata=wire(values.KEY_ALGORITHM, "What the class key is for.")
    )
    bits: int = field(metadata=wire(values.STRENGTH_TEXT, "Strength in bits.", name="strength"))


@dataclass(frozen=True, slots=True, kw_only=True)
class KekAnswer:
    """200 of ``GET /api/ImportKey``: the public half of the key encryption key as a JWK (RFC 7517)."""

    kty: str = field(default="RSA", metadata=wire(values.one_of("RSA"), "Kind of key."))
    use: str = field(default="enc", metadata=wire(values.one_of("enc"), "What it is for."))
    alg: str = field(
        default="RSA-OAEP-256", metadata=wire(values.one_of("RSA-OAEP-256"), "How to wrap under it.")
    )
    kid: str = field(metadata=wire(values.TEXT, "The vault's id of this version; name it on import."))
    n: str = field(metadata=wire(values.BASE64URL, "Modulus, Base64urlUInt."))
    e: str = field(metadata=wire(values.BASE64URL, "Exponent, Base64urlUInt."))


@dataclass(frozen=True, slots=True, kw_only=True)
class RotateAnswer:
    """200 of RotateKey."""

    key_name: KeyName = field(metadata=wire(values.KEY_NAME, "The class key."))
    version: int = field(metadata=wire(values.VERSION, "The version that was made."))


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeAnswer:
    """200 of RevokeKey."""

    key_name: KeyName = field(metadata=wire(values.KEY_NAME, "The class key."))
    floor: int = field(metadata=wire(values.FLOOR, "The lowest version that may still be wrapped."))


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteAnswer:
    """200 of DeleteKey."""

    key_name: KeyName = field(metadata=wire(values.KEY_NAME, "The class key."))
    recoverable_until: str | None = field(
        metadata=wire(values.nullable(values.TIME), "Until when it can be recovered; null if nobody knows.")
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoverAnswer:
    """200 of RecoverKey."""

    key_name: KeyName = field(metadata=wire(values.KEY_NAME, "The class key."))


@dataclass(frozen=True, slots=True, kw_only=True)
class RewrapAnswer:
    """200 of RewrapEnvelopes."""

    rewrapped: int = field(metadata=wire(values.COUNT, "Envelopes that this call sealed anew."))
    remaining: int = field(metadata=wire(values.COUNT, "Envelopes that are left; call again."))
    kek_version: str = field(metadata=wire(values.TEXT, "The version that they are sealed under."))


@dataclass(frozen=True, slots=True, kw_only=True)
class WrapAnswer:
    """200 of WrapKey."""

    wrapped_key: bytes = field(metadata=wire(values.WRAPPED_KEY, "The class key for the caller alone."))
    algorithm: WrapAlgorithm = field(metadata=wire(values.WRAP_ALGORITHM, "How it is wrapped."))
    key_version: int = field(metadata=wire(values.VERSION, "Which version it is."))

    def encode(self) -> dict[str, object]:
        """Return the JSON object."""
        return encode(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthAnswer:
    """200 of Health."""

    status: str = field(default="ok", metadata=wire(values.one_of("ok"), "The app has started."))
    audience: str = field(metadata=wire(values.TEXT, "The deployment's id."))


PART_STATE = values.one_of("ready", "not_ready")


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadyAnswer:
    """200 of Ready."""

    status: str = field(default="ready", metadata=wire(values.one_of("ready"), "All parts are ready."))
    parts: Mapping[str, str] = field(metadata=wire(map_of(PART_STATE), "Each part's state."))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What is wrong with one field of a request."""

    pointer: str | None = field(
        default=None, metadata=wire(values.TEXT, "JSON pointer (RFC 6901) of a member of the body.")
    )
    parameter: str | None = field(default=None, metadata=wire(values.TEXT, "Name of a query parameter."))
    code: str = field(metadata=wire(values.CODE, "Stable, for machines."))
    detail: str = field(metadata=wire(values.TEXT, "For people."))

    @classmethod
    def of(cls, fault: FieldFault) -> Fault:
        """Return a fault as it is told."""
        return cls(pointer=fault.pointer, parameter=fault.parameter, code=fault.code, detail=fault.detail)


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A problem document (RFC 9457)."""

    type: str = field(metadata=wire(values.TEXT, "A URN of the code."))
    title: str = field(metadata=wire(values.TEXT, "The status in words."))
    status: int = field(metadata=wire(values.COUNT, "The status."))
    code: str = field(metadata=wire(values.CODE, "Stable, for machines."))
    detail: str = field(metadata=wire(values.TEXT, "For people: what was expected and found."))
    correlation_id: str = field(metadata=wire(values.TEXT, "What finds the request in the logs."))
    hint: str | None = field(default=None, metadata=wire(values.TEXT, "What the caller may do about it."))
    errors: tuple[Fault, ...] | None = field(
        default=None, metadata=wire(list_of(Fault), "Every fault of the request, if it has any.")
    )
    reason: str | None = field(
        default=None, metadata=wire(values.CODE, "Which check failed, if the policy denied it.")
    )
    parts: Mapping[str, str] | None = field(
        default=None, metadata=wire(map_of(PART_STATE), "Each part's state, if the app is not ready.")
    )


def problem(error: EdbError, *, status: HTTPStatus, correlation_id: str) -> dict[str, object]:
    """Return the problem document of an error that the caller may see.

    Args:
        error: Its message and hint are shown, so it must be one about the request; so are the members
            ``reason`` and ``parts``, if it has them.
        status: The answer's.
        correlation_id: What finds the request in the logs.
    """
    faults = error.faults if isinstance(error, InvalidRequestError) else ()
    return encode(
        Problem(
            type=f"urn:cpk:problem:{error.code}",
            title=status.phrase,
            status=status.value,
            code=error.code,
            detail=str(error),
            correlation_id=correlation_id,
            hint=error.hint,
            errors=tuple(Fault.of(fault) for fault in faults) or None,
            reason=getattr(error, "reason", None),
            parts=getattr(error, "parts", None),
        )
    )


def encode_json(document: Mapping[str, object]) -> bytes:
    """Return a document as the bytes of an answer."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()

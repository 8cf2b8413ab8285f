"""JSON of the HTTP contracts: requests read strictly, answers and problems written (protocol section 3).

A request's faults are all told together, each with its JSON pointer (RFC 6901). Unknown fields are ignored,
as version 1 of the contracts does. Errors leave as ``application/problem+json`` (RFC 9457) with a stable
``code``.

Example:
    >>> ProvisionRequest.parse(b'{"key_name": "app", "strength": 128}').bits
    128
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.encoding import encode_base64
from shared.types import parse_key_name
from shared.wire import request_fields as read
from shared.wire.request_fields import Fields, InvalidRequestError, present

if TYPE_CHECKING:
    from collections.abc import Mapping
    from http import HTTPStatus

    from cryptography import x509

    from shared.certificates import PublicKey
    from shared.errors import EdbError
    from shared.types import KeyName, WrapAlgorithm


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisionRequest:
    """``POST /api/ProvisionKey``: make version 1 of a class key of ``bits`` bits."""

    key_name: KeyName
    bits: int

    @classmethod
    def parse(cls, body: bytes, *, route_name: str | None = None) -> ProvisionRequest:
        """Read the body.

        Args:
            body: JSON object; may be empty if the route names the key.
            route_name: The name in the route, if it has one; the body may repeat it.

        Raises:
            FormatError: ``body_too_large``, no JSON object, or :class:`InvalidRequestError` with every fault.
        """
        fields = Fields(body)
        in_route = None if route_name is None else parse_key_name(route_name, where="route")
        name = fields.read("key_name", read.name, in_route)
        if name is None:
            name = fields.need("key_name", read.name)
        if in_route is not None and name != in_route:
            fields.fault("key_name", "name_conflict", f"/key_name: expected {in_route!r} as in the route")
        fields.read("algorithm", read.key_algorithm, read.KEY_ALGORITHM)
        bits = fields.read("strength", read.strength, read.DEFAULT_STRENGTH)
        fields.finish()
        return cls(key_name=present(name), bits=bits)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportRequest:
    """``POST /api/ImportKey``: take a key that was wrapped under the KEK's public half.

    Args:
        key_name: The new class key's name.
        wrapped_key: RSA-OAEP-256 of 16, 24 or 32 bytes.
        kid: The KEK version that it was wrapped under; None means the current one.
    """

    key_name: KeyName
    wrapped_key: bytes
    kid: str | None

    @classmethod
    def parse(cls, body: bytes) -> ImportRequest:
        """Read the body.

        Raises:
            FormatError: As for :meth:`ProvisionRequest.parse`.
        """
        fields = Fields(body)
        name = fields.need("key_name", read.name)
        wrapped = fields.need("wrapped_key", read.wrapped_key)
        fields.read("algorithm", read.import_algorithm, None)
        kid = fields.read("kid", read.text, None)
        fields.finish()
        return cls(key_name=present(name), wrapped_key=present(wrapped), kid=kid)


@dataclass(frozen=True, slots=True, kw_only=True)
class RotateRequest:
    """``POST /api/RotateKey``: make the next version of a class key."""

    key_name: KeyName

    @classmethod
    def parse(cls, body: bytes) -> RotateRequest:
        """Read the body.

        Raises:
            FormatError: As for :meth:`ProvisionRequest.parse`.
        """
        fields = Fields(body)
        name = fields.need("key_name", read.name)
        fields.finish()
        return cls(key_name=present(name))


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokeRequest:
    """``POST /api/RevokeKey``: revoke a version of a class key, and all older ones."""

    key_name: KeyName
    version: int

    @classmethod
    def parse(cls, body: bytes) -> RevokeRequest:
        """Read the body.

        Raises:
            FormatError: As for :meth:`ProvisionRequest.parse`.
        """
        fields = Fields(body)
        name = fields.need("key_name", read.name)
        version = fields.need("version", read.version)
        fields.finish()
        return cls(key_name=present(name), version=present(version))


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRequest:
    """``POST /api/DeleteKey`` and ``POST /api/RecoverKey``: a class key as a whole."""

    key_name: KeyName

    @classmethod
    def parse(cls, body: bytes) -> KeyRequest:
        """Read the body.

        Raises:
            FormatError: As for :meth:`ProvisionRequest.parse`.
        """
        fields = Fields(body)
        name = fields.need("key_name", read.name)
        fields.finish()
        return cls(key_name=present(name))


@dataclass(frozen=True, slots=True, kw_only=True)
class RewrapRequest:
    """``POST /api/RewrapEnvelopes``: seal envelopes anew, of one class key or, if it is None, of all."""

    key_name: KeyName | None

    @classmethod
    def parse(cls, body: bytes) -> RewrapRequest:
        """Read the body; it may be empty.

        Raises:
            FormatError: As for :meth:`ProvisionRequest.parse`.
        """
        fields = Fields(body)
        name = fields.read("key_name", read.name, None)
        fields.finish()
        return cls(key_name=name)


@dataclass(frozen=True, slots=True, kw_only=True)
class WrapRequest:
    """``POST /api/WrapKey``: wrap a class key for the caller's public key.

    Args:
        key_name: Which class key.
        public_key: The caller's.
        certificates: Its chain, leaf first; empty if it shows none.
        algorithm: The one asked for; None leaves the choice to the policy's rule.
        key_version: The version asked for; None means the newest.
    """

    key_name: KeyName
    public_key: PublicKey
    certificates: tuple[x509.Certificate, ...]
    algorithm: WrapAlgorithm | None
    key_version: int | None

    @classmethod
    def parse(cls, body: bytes) -> WrapRequest:
        """Read the body.

        Raises:
            FormatError: As for :meth:`ProvisionRequest.parse`.
        """
        fields = Fields(body)
        name = fields.need("key_name", read.name)
        public_key = fields.need("client_public_key", read.public_key)
        none: tuple[x509.Certificate, ...] = ()
        certificates = fields.read("client_cert", read.certificates, none)
        algorithm = fields.read("algorithm", read.wrap_algorithm, None)
        version = fields.read("key_version", read.version, None)
        fields.finish()
        return cls(
            key_name=present(name),
            public_key=present(public_key),
            certificates=certificates,
            algorithm=algorithm,
            key_version=version,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProvisionAnswer:
    """201 of ProvisionKey and ImportKey."""

    key_name: KeyName
    version: int
    bits: int

    def encode(self) -> dict[str, object]:
        """Return the JSON object."""
        return {
            "message": f"class key {self.key_name} was created",
            "key_name": self.key_name,
            "version": self.version,
            "algorithm": read.KEY_ALGORITHM,
            "strength": str(self.bits),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class WrapAnswer:
    """200 of WrapKey."""

    wrapped_key: bytes
    algorithm: WrapAlgorithm
    key_version: int

    def encode(self) -> dict[str, object]:
        """Return the JSON object."""
        return {
            "wrapped_key": encode_base64(self.wrapped_key),
            "algorithm": self.algorithm.value,
            "key_version": self.key_version,
        }


def problem(error: EdbError, *, status: HTTPStatus, correlation_id: str) -> dict[str, object]:
    """Return the problem document of an error that the caller may see.

    Args:
        error: Its message and hint are shown, so it must be one about the request.
        status: The answer's.
        correlation_id: What finds the request in the logs.
    """
    document: dict[str, object] = {
        "type": f"urn:cpk:problem:{error.code}",
        "title": status.phrase,
        "status": status.value,
        "code": error.code,
        "detail": str(error),
        "correlation_id": correlation_id,
    }
    if error.hint is not None:
        document["hint"] = error.hint
    if isinstance(error, InvalidRequestError):
        document["errors"] = [
            {"pointer": fault.pointer, "code": fault.code, "detail": fault.detail} for fault in error.faults
        ]
    return document


def encode_json(document: Mapping[str, object]) -> bytes:
    """Return a document as the bytes of an answer."""
    return json.dumps(document, separators=(",", ":"), ensure_ascii=False).encode()

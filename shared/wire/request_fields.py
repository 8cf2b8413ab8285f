"""Read the fields of a request, and tell all that is wrong with them at once.

Each reader takes a field's value and where it stands (the JSON pointer of a body's member, the name of a
query's parameter), and raises :class:`shared.errors.FormatError`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from shared import strict_json
from shared.certificates import load_certificates
from shared.encoding import decode_base64
from shared.errors import FormatError
from shared.public_keys import PublicKey, load_public_key
from shared.types import MAX_KEY_VERSION, KeyName, WrapAlgorithm, parse_key_name

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from cryptography import x509

MAX_BODY_BYTES = 64 * 1024
"""Longest request body, in bytes."""

KEY_ALGORITHM = "aes-gcm"
STRENGTHS = (128, 192, 256)
DEFAULT_STRENGTH = 256

MAX_WRAPPED_BYTES = 512
"""Longest key wrapped under an RSA key of 4096 bits."""

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldFault:
    """What is wrong with one field.

    Args:
        code: Stable, for machines.
        detail: A sentence.
        pointer: JSON pointer of a body's member.
        parameter: Name of a query's parameter; one of the two is there.
    """

    code: str
    detail: str
    pointer: str | None = None
    parameter: str | None = None


class InvalidRequestError(FormatError):
    """A request has faults; all of them are told.

    Args:
        faults: At least one.
    """

    default_code = "invalid_request"

    def __init__(self, faults: tuple[FieldFault, ...]) -> None:
        super().__init__("; ".join(fault.detail for fault in faults))
        self.faults = faults


class Fields:
    """The fields of one JSON object; collects faults instead of stopping at the first.

    Args:
        body: The object; an empty body is one without fields.

    Raises:
        FormatError: ``body_too_large``, or it is no JSON object.
    """

    def __init__(self, body: bytes) -> None:
        if len(body) > MAX_BODY_BYTES:
            raise FormatError(
                f"body: expected at most {MAX_BODY_BYTES} bytes, found {len(body)}", code="body_too_large"
            )
        value = strict_json.loads(body, where="body") if body.strip() else {}
        if not isinstance(value, dict):
            raise FormatError(f"body: expected a JSON object, found {type(value).__name__}")
        self._values: Mapping[str, object] = value
        self._in_body = True
        self._faults: list[FieldFault] = []

    @classmethod
    def of_query(cls, parameters: Mapping[str, str]) -> Fields:
        """Return the parameters of a query as fields."""
        fields = cls(b"")
        fields._values, fields._in_body = parameters, False
        return fields

    def read(self, name: str, parse: Callable[[object, str], _Value], default: _Value) -> _Value:
        """Return a field that may be missing or null; ``default`` stands in then, and for faults."""
        if self._values.get(name) is None:
            return default
        try:
            return parse(self._values[name], self._place(name))
        except FormatError as error:
            self.fault(name, error.code, str(error))
            return default

    def need(self, name: str, parse: Callable[[object, str], _Value]) -> _Value | None:
        """Return a field that must be there; None if it has a fault, and then :meth:`finish` raises."""
        if self._values.get(name) is None:
            self.fault(name, "missing", f"{self._place(name)}: expected a value, found none")
        return self.read(name, parse, None)

    def fault(self, name: str, code: str, detail: str) -> None:
        """Note a fault of a field."""
        at = {"pointer" if self._in_body else "parameter": self._place(name)}
        self._faults.append(FieldFault(code=code, detail=detail, **at))

    def finish(self) -> None:
        """Raise :class:`InvalidRequestError` if a field had a fault."""
        if self._faults:
            raise InvalidRequestError(tuple(self._faults))

    def _place(self, name: str) -> str:
        return f"/{name}" if self._in_body else name


def present(value: _Value | None) -> _Value:
    """Return a needed field after :meth:`Fields.finish`, which has raised if it was missing."""
    if value is None:
        raise FormatError("body: a field is missing")
    return value


def name(value: object, where: str) -> KeyName:
    """Read a class key's name."""
    return parse_key_name(value, where=where)


def text(value: object, where: str) -> str:
    """Read text."""
    if not isinstance(value, str):
        raise FormatError(f"{where}: expected text, found {type(value).__name__}")
    return value


def key_algorithm(value: object, where: str) -> str:
    """Read a class key's algorithm; there is one."""
    if value != KEY_ALGORITHM:
        raise FormatError(f"{where}: expected {KEY_ALGORITHM!r}", code="unsupported_algorithm")
    return KEY_ALGORITHM


def strength(value: object, where: str) -> int:
    """Read a class key's strength in bits, a number or a string."""
    for bits in STRENGTHS:
        if value == str(bits) or (type(value) is int and value == bits):
            return bits
    raise FormatError(f"{where}: expected 128, 192 or 256, as a number or a string")


def import_algorithm(value: object, where: str) -> WrapAlgorithm:
    """Read how an imported key is wrapped; there is one way."""
    if value != WrapAlgorithm.RSA_OAEP_256.value:
        raise FormatError(f"{where}: expected RSA-OAEP-256", code="unsupported_algorithm")
    return WrapAlgorithm.RSA_OAEP_256


def wrap_algorithm(value: object, where: str) -> WrapAlgorithm:
    """Read a wrapping algorithm."""
    for algorithm in WrapAlgorithm:
        if value == algorithm.value:
            return algorithm
    names = ", ".join(algorithm.value for algorithm in WrapAlgorithm)
    raise FormatError(f"{where}: expected one of {names}", code="unsupported_algorithm")


def version(value: object, where: str) -> int:
    """Read a class key's version."""
    if type(value) is not int or not 1 <= value <= MAX_KEY_VERSION:
        raise FormatError(f"{where}: expected a version, an integer from 1 to {MAX_KEY_VERSION}")
    return value


def wrapped_key(value: object, where: str) -> bytes:
    """Read a wrapped key."""
    data = decode_base64(value, where=where)
    if not 1 <= len(data) <= MAX_WRAPPED_BYTES:
        raise FormatError(f"{where}: expected 1 to {MAX_WRAPPED_BYTES} bytes, found {len(data)}")
    return data


def public_key(value: object, where: str) -> PublicKey:
    """Read base64 of a DER SubjectPublicKeyInfo."""
    return load_public_key(decode_base64(value, where=where), where=where)


def certificates(value: object, where: str) -> tuple[x509.Certificate, ...]:
    """Read PEM as it is, or base64 of DER; both may be a chain, leaf first."""
    encoded = text(value, where)
    data = encoded.encode() if "-----BEGIN" in encoded else decode_base64(encoded, where=where)
    return load_certificates(data, where=where)

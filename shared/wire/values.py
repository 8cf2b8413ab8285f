"""The kinds of values that stand in the HTTP contracts: how each is described, read and written.

A kind is declared once. Requests are read by it, answers are written by it, and the OpenAPI document says it:
there is no second description to keep in step.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, NoReturn, TypeVar

from shared.encoding import encode_base64
from shared.errors import FormatError
from shared.types import MAX_KEY_VERSION, DeviceId, Fingerprint, WrapAlgorithm, parse_device_id
from shared.wire import request_fields as read

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_Value = TypeVar("_Value")

MAX_PAGE = 1000
"""Entries of one page at most."""

MAX_DEVICES = 100
"""Devices that are named in one request at most."""

MAX_SEQUENCE = 10**15 - 1
"""Highest number of an entry of the audit chain."""

MAX_TOKEN = 4096
"""Characters of a page's token at most."""

# What shared.types reads, as a pattern of JSON Schema (ECMA 262, whose $ is the end of the text).
_KEY_NAME_PATTERN = "^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
_HUB_ID_PATTERN = r"^[A-Za-z0-9\-:.+%_#*?!(),=@;$']{1,128}$"
_DEVICE_OR_MODULE_PATTERN = rf"{_HUB_ID_PATTERN[:-1]}(/{_HUB_ID_PATTERN[1:-1]})?$"
_BASE64_PATTERN = r"^[A-Za-z0-9+/\s]*={0,2}\s*$"
# The base point of P-256, whose private key is 1: nobody can take it for a key to be used.
_PUBLIC_KEY_EXAMPLE = (
    "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfY"
    "Et6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q=="
)
_PREFIX = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_TOKEN = re.compile(rf"[\x21-\x7e]{{1,{MAX_TOKEN}}}")
_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_CODE = re.compile(r"[a-z][a-z0-9_]{0,63}")


def _unread(_value: object, where: str) -> NoReturn:
    raise FormatError(f"{where}: is only ever written")


@dataclass(frozen=True, slots=True, kw_only=True)
class Value(Generic[_Value]):
    """A kind of value.

    Args:
        schema: JSON Schema (2020-12) of what is read or written.
        read: Reads a value found at a place, or raises FormatError; the text of a query's parameter, too. A
            kind of answers alone needs none.
        write: Returns the JSON value.
        objects: The classes that the schema refers to, see :mod:`shared.wire.objects`.
    """

    schema: Mapping[str, object]
    read: Callable[[object, str], _Value] = _unread
    write: Callable[[_Value], object] = lambda value: value
    objects: tuple[type, ...] = ()


def _page_size(value: object, where: str) -> int:
    text = str(value)
    if not re.fullmatch(r"[0-9]{1,4}", text, re.ASCII) or not 1 <= int(text) <= MAX_PAGE:
        raise FormatError(f"{where}: expected 1 to {MAX_PAGE}, found {text[:32]!r}")
    return int(text)


def _sequence(value: object, where: str) -> int:
    text = str(value)
    if not re.fullmatch(r"[0-9]{1,15}", text, re.ASCII):
        raise FormatError(f"{where}: expected 0 to {MAX_SEQUENCE}, found {text[:32]!r}")
    return int(text)


def _matching(pattern: re.Pattern[str], what: str) -> Callable[[object, str], str]:
    def check(value: object, where: str) -> str:
        found = read.text(value, where)
        if not pattern.fullmatch(found):
            raise FormatError(f"{where}: expected {what}")
        return found

    return check


def _device_ids(value: object, where: str) -> tuple[DeviceId, ...]:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_DEVICES:
        raise FormatError(f"{where}: expected 1 to {MAX_DEVICES} device ids")
    return tuple(parse_device_id(each, where=f"{where}/{number}") for number, each in enumerate(value))


_fingerprint = _matching(_FINGERPRINT, "64 hex digits in lower case, a SHA-256")


def one_of(*words: str) -> Value[str]:
    """Return a kind that is one of these words."""

    def check(value: object, where: str) -> str:
        if not isinstance(value, str) or value not in words:
            raise FormatError(f"{where}: expected one of {', '.join(words)}")
        return value

    return Value(schema={"type": "string", "enum": list(words)}, read=check)


def nullable(kind: Value[_Value]) -> Value[_Value | None]:
    """Return a kind that may also be null."""
    return Value(
        schema={"anyOf": [kind.schema, {"type": "null"}]},
        write=lambda value: None if value is None else kind.write(value),
        objects=kind.objects,
    )


TEXT = Value(schema={"type": "string"}, read=read.text)
FLAG: Value[bool] = Value(schema={"type": "boolean"})
COUNT: Value[int] = Value(schema={"type": "integer", "minimum": 0})
CODE = Value(
    schema={"type": "string", "pattern": f"^{_CODE.pattern}$"},
    read=_matching(_CODE, "a code: 1 to 64 characters a-z 0-9 _, the first a letter"),
)
ANY_OBJECT: Value[Mapping[str, object]] = Value(schema={"type": "object"})
TIME: Value[str] = Value(schema={"type": "string", "format": "date-time"})
DIGEST: Value[str] = Value(schema={"type": "string", "pattern": "^[0-9a-f]{64}$"})
BASE64URL: Value[str] = Value(schema={"type": "string", "pattern": "^[A-Za-z0-9_-]+$"})

KEY_NAME = Value(
    schema={"type": "string", "pattern": _KEY_NAME_PATTERN, "examples": ["my_confidential_app"]},
    read=read.name,
)
KEY_PREFIX = Value(
    schema={"type": "string", "pattern": f"^{_PREFIX.pattern}$"},
    read=_matching(_PREFIX, "the beginning of a key name"),
)
VERSION = Value(schema={"type": "integer", "minimum": 1, "maximum": MAX_KEY_VERSION}, read=read.version)
FLOOR: Value[int] = Value(schema={"type": "integer", "minimum": 1, "maximum": MAX_KEY_VERSION + 1})
KEY_ALGORITHM = Value(schema={"type": "string", "enum": [read.KEY_ALGORITHM]}, read=read.key_algorithm)
STRENGTH = Value(
    schema={"enum": [*(str(bits) for bits in read.STRENGTHS), *read.STRENGTHS]}, read=read.strength
)
"""Bits, as read: text or number."""

STRENGTH_TEXT: Value[int] = Value(
    schema={"type": "string", "enum": [str(bits) for bits in read.STRENGTHS]}, write=str
)
"""Bits, as written: text."""

WRAP_ALGORITHM = Value(
    schema={"type": "string", "enum": [algorithm.value for algorithm in WrapAlgorithm]},
    read=read.wrap_algorithm,
    write=lambda algorithm: algorithm.value,
)
IMPORT_ALGORITHM = Value(
    schema={"type": "string", "enum": [WrapAlgorithm.RSA_OAEP_256.value]},
    read=read.import_algorithm,
    write=lambda algorithm: algorithm.value,
)
_BASE64: dict[str, object] = {"type": "string", "contentEncoding": "base64", "pattern": _BASE64_PATTERN}
WRAPPED_KEY = Value(schema=_BASE64, read=read.wrapped_key, write=encode_base64)
PUBLIC_KEY = Value(schema={**_BASE64, "examples": [_PUBLIC_KEY_EXAMPLE]}, read=read.public_key)
CERTIFICATES = Value(schema={"type": "string"}, read=read.certificates)

DEVICE_ID = Value(
    schema={"type": "string", "pattern": _HUB_ID_PATTERN},
    read=lambda value, where: parse_device_id(value, where=where),
)
DEVICE_OR_MODULE_ID = Value(
    schema={"type": "string", "pattern": _DEVICE_OR_MODULE_PATTERN, "examples": ["edge-01", "edge-01/agent"]},
    read=lambda value, where: parse_device_id(value, where=where),
)
DEVICE_IDS: Value[tuple[DeviceId, ...]] = Value(
    schema={
        "type": "array",
        "items": DEVICE_OR_MODULE_ID.schema,
        "minItems": 1,
        "maxItems": MAX_DEVICES,
    },
    read=_device_ids,
)
FINGERPRINT: Value[Fingerprint] = Value(
    schema={"type": "string", "pattern": "^[0-9a-f]{64}$"},
    read=lambda value, where: Fingerprint(bytes.fromhex(_fingerprint(value, where))),
)
PAGE_SIZE = Value(schema={"type": "integer", "minimum": 1, "maximum": MAX_PAGE}, read=_page_size)
SEQUENCE = Value(schema={"type": "integer", "minimum": 0, "maximum": MAX_SEQUENCE}, read=_sequence)
"""Number of an entry of the audit chain; 0 stands before the first."""

PAGE_TOKEN = Value(
    schema={"type": "string", "pattern": f"^[!-~]{{1,{MAX_TOKEN}}}$"},
    read=_matching(_TOKEN, "the next_token of an earlier page"),
)

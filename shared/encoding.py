"""Base64 as the contracts want it, and deterministic CBOR (RFC 8949 section 4.2).

Written base64 is standard, padded, on one line. Read base64 may carry white space or lack its padding, as
older peers write it; URL-safe base64 is refused (protocol section 1).
"""

from __future__ import annotations

import binascii
import io
import re

import cbor2

from shared.errors import FormatError

_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_WHITE_SPACE = re.compile(r"[ \t\r\n]+")


def encode_base64(data: bytes) -> str:
    """Return standard base64, padded, on one line."""
    return binascii.b2a_base64(data, newline=False).decode("ascii")


def decode_base64(text: object, *, where: str) -> bytes:
    """Return the bytes of standard base64; white space and missing padding are tolerated.

    Raises:
        FormatError: Not a string, not base64, or URL-safe base64.
    """
    if not isinstance(text, str):
        raise FormatError(f"{where}: expected base64 text, found {type(text).__name__}")
    try:  # as nearly all of it is written; padding without end is not refused by all versions of Python
        if not text.endswith("==="):
            return binascii.a2b_base64(text, strict_mode=True)
    except ValueError:
        pass  # what follows allows more, and tells what is wrong
    packed = _WHITE_SPACE.sub("", text)
    if not _BASE64.fullmatch(packed):
        kind = "URL-safe base64" if re.fullmatch(r"[A-Za-z0-9_=-]*", packed) else "other characters"
        raise FormatError(f"{where}: expected standard base64, found {kind}")
    digits = packed.rstrip("=")
    try:
        return binascii.a2b_base64(digits + "=" * (-len(digits) % 4))
    except binascii.Error as error:
        raise FormatError(f"{where}: base64 of {len(packed)} characters cannot be decoded") from error


def encode_cbor(value: object) -> bytes:
    """Return deterministic CBOR: shortest forms, sorted keys, definite lengths."""
    return cbor2.dumps(value, canonical=True)


def decode_cbor(data: bytes, *, where: str) -> object:
    """Return the one item that ``data`` holds, in deterministic encoding and to its last byte.

    Raises:
        FormatError: Not CBOR, more than one item, or not the deterministic encoding of what it says.
    """
    stream = io.BytesIO(data)
    try:
        value = cbor2.CBORDecoder(stream).decode()
    except (cbor2.CBORError, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError) as error:
        raise FormatError(f"{where}: not CBOR: {type(error).__name__}") from error
    if stream.tell() != len(data):
        raise FormatError(f"{where}: {len(data) - stream.tell()} bytes after the CBOR item")
    try:
        same = encode_cbor(value) == data
    except (cbor2.CBORError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
        raise FormatError(f"{where}: holds CBOR that has no deterministic encoding") from error
    if not same:
        raise FormatError(f"{where}: CBOR is not deterministically encoded (RFC 8949 section 4.2)")
    return value

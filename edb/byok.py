"""Wrap a key of one's own for the key service: RSA-OAEP-256 under its KEK's public half (RFC 7517, 7518)."""

from __future__ import annotations

import base64
import binascii
import re
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from edb.answers import Fields
from shared.encoding import encode_base64
from shared.errors import FormatError
from shared.keys.envelope import Kek
from shared.public_keys import RSA_BITS, RSA_EXPONENT

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared.types import Secret

_MAX_CHARACTERS = 1024
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+")


def kek_from_jwk(document: Mapping[str, object]) -> Kek:
    """Read the public half of the key encryption key.

    Args:
        document: The JWK that ``GET /api/ImportKey`` answers.

    Raises:
        FormatError: It is no RSA key of 2048, 3072 or 4096 bits with e = 65537 for RSA-OAEP-256.
    """
    fields = Fields(document, where="answer: JWK")
    if (fields.need("kty", str), fields.need("alg", str)) != ("RSA", "RSA-OAEP-256"):
        raise FormatError("answer: JWK: expected an RSA key for RSA-OAEP-256, found another")
    modulus, exponent = (_number(fields.need(name, str), name) for name in ("n", "e"))
    if modulus.bit_length() not in RSA_BITS or exponent != RSA_EXPONENT or modulus % 2 == 0:
        raise FormatError("answer: JWK: expected RSA of 2048, 3072 or 4096 bits with e = 65537")
    return Kek(kid=fields.need("kid", str), public_key=rsa.RSAPublicNumbers(exponent, modulus).public_key())


def wrap_under_kek(key: Secret, kek: Kek) -> str:
    """Return base64 of a key, wrapped with RSA-OAEP-256."""
    oaep = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
    return encode_base64(kek.public_key.encrypt(key.reveal(), oaep))


def _number(text: str, name: str) -> int:
    """Read Base64urlUInt (RFC 7518 section 2)."""
    try:
        if len(text) > _MAX_CHARACTERS or not _BASE64URL.fullmatch(text):
            raise FormatError(f"answer: JWK: {name}: expected base64url text")
        return int.from_bytes(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), "big")
    except binascii.Error as error:
        raise FormatError(f"answer: JWK: {name}: expected base64url text") from error

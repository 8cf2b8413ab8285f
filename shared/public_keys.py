"""Public keys from hostile hands, loaded strictly (protocol section 3).

They are DER SubjectPublicKeyInfo in their one canonical encoding. Sizes and parameters are checked before a
key is used: an RSA key with a huge exponent costs its user 75 times a normal one.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from shared.errors import FormatError
from shared.types import Fingerprint

MAX_SPKI_BYTES = 550
"""The SubjectPublicKeyInfo of an RSA key of 4096 bits with e = 65537; no accepted key is longer."""

RSA_BITS = (2048, 3072, 4096)
"""The only RSA modulus lengths."""

RSA_EXPONENT = 65537
"""The only RSA public exponent."""

# Points of order 1, 2, 4 and 8 on Curve25519 and its twist: every secret shared with one of them is zero,
# which RFC 9180 section 7.1.4 refuses. They are refused when the key is loaded, before anything is wrapped.
_X25519_PRIME = 2**255 - 19
_X25519_LOW_ORDER = frozenset(
    {
        0,
        1,
        _X25519_PRIME - 1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    }
)


class KeyKind(enum.Enum):
    """The kinds of public key that a class key can be wrapped for."""

    RSA = "RSA"
    P256 = "P-256"
    X25519 = "X25519"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """A checked public key.

    Args:
        spki: Its DER SubjectPublicKeyInfo, canonical.
        kind: What it can be used for.
        key: The loaded key; load once and use it for all that is wrapped for its owner.
    """

    spki: bytes
    kind: KeyKind
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | x25519.X25519PublicKey

    @property
    def fingerprint(self) -> Fingerprint:
        """SHA-256 over :attr:`spki`, 32 bytes (protocol section 1)."""
        return Fingerprint(hashlib.sha256(self.spki).digest())


def load_public_key(spki: bytes, *, where: str) -> PublicKey:
    """Load an RSA (2048, 3072 or 4096 bits, e = 65537), EC P-256 or X25519 public key (protocol section 3).

    Args:
        spki: DER SubjectPublicKeyInfo, canonical and to its last byte: named curve, uncompressed point.
        where: What is being read, for the message.

    Raises:
        FormatError: It is anything else.
    """
    if len(spki) > MAX_SPKI_BYTES:
        raise FormatError(
            f"{where}: expected a public key of at most {MAX_SPKI_BYTES} bytes, found {len(spki)}"
        )
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise FormatError(
            f"{where}: expected DER SubjectPublicKeyInfo, found {len(spki)} other bytes"
        ) from error
    match key:
        case rsa.RSAPublicKey():
            problem = rsa_problem(key)
            loaded = PublicKey(spki=spki, kind=KeyKind.RSA, key=key)
        case ec.EllipticCurvePublicKey():
            problem = None if isinstance(key.curve, ec.SECP256R1) else f"an EC key on {key.curve.name}"
            loaded = PublicKey(spki=spki, kind=KeyKind.P256, key=key)
        case x25519.X25519PublicKey():
            problem = "an X25519 point of low order" if _is_low_order(key) else None
            loaded = PublicKey(spki=spki, kind=KeyKind.X25519, key=key)
        case _:
            raise FormatError(f"{where}: expected an RSA, EC P-256 or X25519 key, found another kind")
    if problem is not None:
        raise FormatError(
            f"{where}: expected RSA of 2048, 3072 or 4096 bits with e = 65537, EC P-256 or X25519; "
            f"found {problem}"
        )
    # One key, one encoding, one fingerprint: PKCS#1, compressed points and loose DER all end here.
    if key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != spki:
        raise FormatError(f"{where}: the public key is not in canonical DER SubjectPublicKeyInfo encoding")
    return loaded


def rsa_problem(key: rsa.RSAPublicKey) -> str | None:
    """Say what is wrong with an RSA key, or None; looks at numbers only and uses the key for nothing."""
    if key.key_size not in RSA_BITS:
        return f"RSA of {key.key_size} bits"
    numbers = key.public_numbers()
    if numbers.e != RSA_EXPONENT:
        return f"RSA with an exponent of {numbers.e.bit_length()} bits that is not 65537"
    return "RSA with an even modulus" if numbers.n % 2 == 0 else None


def _is_low_order(key: x25519.X25519PublicKey) -> bool:
    masked = int.from_bytes(key.public_bytes_raw(), "little") & (2**255 - 1)  # RFC 7748 section 5
    return masked % _X25519_PRIME in _X25519_LOW_ORDER

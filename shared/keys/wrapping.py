"""Wrap a class key for one public key (protocol section 3).

RSA keys take ``RSA-OAEP-256`` (RFC 8017 section 7.1, SHA-256 twice, no label) or, where a policy rule lists
it, ``RSA1_5``. EC P-256 and X25519 keys take HPKE (RFC 9180) in base mode; the wrapped bytes are ``enc`` and
then the ciphertext:

=========== ============= =========== ===========
algorithm   KEM           KDF         AEAD
=========== ============= =========== ===========
HPKE-P256   DHKEM(P-256)  HKDF-SHA256 AES-256-GCM
HPKE-X25519 DHKEM(X25519) HKDF-SHA256 AES-256-GCM
=========== ============= =========== ===========

HPKE binds the wrapping to a :class:`WrapContext`: the bytes open for no other deployment, device, name or
version. RSA does not; what binds an RSA wrapping is the signed release, which holds its hash.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, cast

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.hpke import AEAD, KDF, KEM, Suite

from shared.errors import FormatError
from shared.public_keys import KeyKind, PublicKey
from shared.types import MAX_KEY_VERSION, Audience, KeyName, WrapAlgorithm

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519

    from shared.types import Secret

KEY_LENGTHS: Final = (16, 24, 32)
"""Lengths of a class key in bytes: AES-128, AES-192 and AES-256."""

WRAP_LABEL: Final = b"CPK-WRAP-v2\0"
"""What an HPKE ``info`` begins with."""

_HPKE_P256 = Suite(KEM.P256, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_HPKE_X25519 = Suite(KEM.X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_OAEP_256 = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)
_PKCS1V15 = padding.PKCS1v15()
_AEAD_TAG_BYTES = 16

_ALGORITHMS: Final = {
    KeyKind.RSA: (WrapAlgorithm.RSA_OAEP_256, WrapAlgorithm.RSA1_5),
    KeyKind.P256: (WrapAlgorithm.HPKE_P256,),
    KeyKind.X25519: (WrapAlgorithm.HPKE_X25519,),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class WrapContext:
    """Whose key it is that is wrapped: the deployment, the device, the class key's name and version.

    Args:
        audience: The deployment's id.
        device_id: The device's id, or the name that a build machine's certificate gives it.
        name: The class key's name.
        version: The class key's version, 1 to 2^32-1.
    """

    audience: Audience
    device_id: str
    name: KeyName
    version: int

    def info(self, label: bytes) -> bytes:
        """Return the context as bytes: ``label``, three texts behind u16 lengths, then the version as u32.

        Args:
            label: A purpose ending in NUL, so that no two purposes ever derive from the same bytes.

        Raises:
            FormatError: A text is longer than 65,535 bytes, or the version is no u32 from 1.
        """
        if not 1 <= self.version <= MAX_KEY_VERSION:
            raise FormatError(
                f"wrap context: expected a version of 1 to {MAX_KEY_VERSION}, found {self.version}"
            )
        texts = (self.audience.encode(), self.device_id.encode(), self.name.encode())
        if max(map(len, texts)) > 0xFFFF:  # noqa: PLR2004 - what a u16 length can say
            raise FormatError("wrap context: a text is longer than 65535 bytes")
        framed = b"".join(len(text).to_bytes(2, "big") + text for text in texts)
        return label + framed + self.version.to_bytes(4, "big")


def algorithms_for(kind: KeyKind) -> tuple[WrapAlgorithm, ...]:
    """Return the algorithms that can wrap for this kind of key, the default first."""
    return _ALGORITHMS[kind]


def wrapped_size(public_key: PublicKey, algorithm: WrapAlgorithm, key_bytes: int) -> int:
    """Return how many bytes a class key of ``key_bytes`` bytes becomes when it is wrapped.

    Raises:
        FormatError: ``unsupported_algorithm``, as for :func:`wrap_key`.
    """
    _check_fits(public_key, algorithm)
    if public_key.kind is KeyKind.RSA:
        return cast("rsa.RSAPublicKey", public_key.key).key_size // 8
    kem = KEM.P256 if algorithm is WrapAlgorithm.HPKE_P256 else KEM.X25519
    return kem.enc_length() + key_bytes + _AEAD_TAG_BYTES


def wrap_key(key: Secret, public_key: PublicKey, algorithm: WrapAlgorithm, *, context: WrapContext) -> bytes:
    """Wrap a class key; every call gives other bytes.

    Args:
        key: 16, 24 or 32 bytes.
        public_key: The receiver's, from :func:`shared.public_keys.load_public_key`.
        algorithm: One of :func:`algorithms_for` its kind; that a policy rule lists it is the caller's check.
        context: Bound by HPKE; RSA ignores it.

    Raises:
        FormatError: ``unsupported_algorithm`` if the algorithm is not one for this kind of key; ``malformed``
            if the class key's length is none.
    """
    _check_fits(public_key, algorithm)
    if len(key) not in KEY_LENGTHS:
        raise FormatError(f"class key: expected 16, 24 or 32 bytes, found {len(key)}")
    if public_key.kind is KeyKind.RSA:
        return cast("rsa.RSAPublicKey", public_key.key).encrypt(key.reveal(), rsa_padding(algorithm))
    receiver = cast("ec.EllipticCurvePublicKey | x25519.X25519PublicKey", public_key.key)
    return hpke_suite(algorithm).encrypt(key.reveal(), receiver, info=context.info(WRAP_LABEL))


def rsa_padding(algorithm: WrapAlgorithm) -> padding.AsymmetricPadding:
    """Return the RSA encryption padding of ``RSA-OAEP-256`` or ``RSA1_5``."""
    return _PKCS1V15 if algorithm is WrapAlgorithm.RSA1_5 else _OAEP_256


def hpke_suite(algorithm: WrapAlgorithm) -> Suite:
    """Return the HPKE suite of ``HPKE-P256`` or ``HPKE-X25519``."""
    return _HPKE_P256 if algorithm is WrapAlgorithm.HPKE_P256 else _HPKE_X25519


def _check_fits(public_key: PublicKey, algorithm: WrapAlgorithm) -> None:
    if algorithm not in _ALGORITHMS[public_key.kind]:
        fitting = ", ".join(each.value for each in _ALGORITHMS[public_key.kind])
        raise FormatError(
            f"{algorithm.value} does not wrap for a {public_key.kind.value} key; expected {fitting}",
            code="unsupported_algorithm",
        )

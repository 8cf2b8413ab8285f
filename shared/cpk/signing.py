"""How packages are signed: what each scheme signs, and the port that signing keys stand behind.

A section is signed over a digest (specification, section 5.3). RSA and ECDSA sign the digest as their hash
(``Prehashed``); Ed25519 and ML-DSA hash for themselves and sign a short message around it, which names the
role, so that a signature over a payload is none over a package::

    "CPK-SIG-v1" 00 "payload" 00 digest

Sealing asks a :class:`Signer` for sizes before the first byte and for signatures at the end. A key behind an
HSM or a vault is another implementation of the same port, at the edge.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, padding, rsa, utils

from shared.cpk.schemes import CertificateUrl, Encoding, PreSharedCertificate, SignatureScheme
from shared.errors import FormatError

__all__ = [
    "EmbeddedCertificateBytes",
    "EmbeddedPublicKeyBytes",
    "Role",
    "SignatureScheme",
    "Signer",
    "SignerCertification",
    "ecdsa_from_der",
    "sign",
    "signature_size",
    "to_be_signed",
    "verify",
]

PSS_SALT_SIZE = 32
"""Bytes of salt in an RSASSA-PSS signature: as long as its hash."""

_CONTEXT = b"CPK-SIG-v1"


class Role(enum.Enum):
    """What a signature is over; the value stands in the message that a pure scheme signs."""

    PAYLOAD = "payload"
    PACKAGE = "package"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedCertificateBytes:
    """An X.509 certificate or chain, leaf first, to embed as it is.

    Attributes:
        encoding: PEM, or DER certificates one after the other.
        data: The stream's bytes.
    """

    encoding: Encoding
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedPublicKeyBytes:
    """A bare SubjectPublicKeyInfo to embed as it is; trusted by those only who have pinned it."""

    encoding: Encoding
    data: bytes


SignerCertification = (
    EmbeddedCertificateBytes | EmbeddedPublicKeyBytes | PreSharedCertificate | CertificateUrl
)
"""How a verifier finds the signer's key: in the package, in its own store by domain, or at a URL."""


class Signer(Protocol):
    """A signing key, wherever it lives."""

    @property
    def scheme(self) -> SignatureScheme:
        """How it signs."""

    @property
    def key_strength(self) -> int | None:
        """Bits of the modulus for RSA: 2048, 3072 or 4096; ``None`` otherwise."""

    @property
    def certification(self) -> SignerCertification:
        """How a verifier finds its public half."""

    @property
    def subject(self) -> str:
        """Whom it stands for, for people."""

    def sign(self, digest: bytes, role: Role) -> bytes:
        """Return the signature over a digest, in the manifest's encoding.

        Args:
            digest: Made with the scheme's hash; for a pure scheme with whatever the section is digested with.
            role: What the digest is over.

        Raises:
            EdbError: The key cannot be used; nothing has been signed.
        """


def signature_size(signer: Signer) -> int:
    """Return the bytes of each of a signer's signatures."""
    return signer.scheme.signature_size(signer.key_strength)


def to_be_signed(scheme: SignatureScheme, digest: bytes, role: Role) -> bytes:
    """Return what the key signs: a message for a pure scheme, the digest itself for the others."""
    if scheme.digest_algorithm is not None:
        return digest
    return b"\0".join((_CONTEXT, role.value.encode(), digest))


def ecdsa_from_der(scheme: SignatureScheme, signature: bytes, *, where: str) -> bytes:
    """Return an ECDSA signature as r and s of fixed length; tools and tokens write it in DER.

    Args:
        scheme: ECDSA on P-256 or P-384.
        signature: DER ``SEQUENCE { r, s }``.
        where: What is being read, for the message.

    Raises:
        FormatError: It is not, or a number is too long for the curve.
    """
    half = scheme.signature_size(None) // 2
    try:
        r, s = utils.decode_dss_signature(signature)
        return r.to_bytes(half, "big") + s.to_bytes(half, "big")
    except (ValueError, OverflowError) as error:
        raise FormatError(f"{where}: expected an {scheme.value} signature in DER") from error


def ecdsa_to_der(signature: bytes) -> bytes:
    """Return r and s of fixed length as DER, as cryptographic libraries take them."""
    half = len(signature) // 2
    r, s = int.from_bytes(signature[:half], "big"), int.from_bytes(signature[half:], "big")
    return utils.encode_dss_signature(r, s)


PrivateKey = (
    rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | mldsa.MLDSA65PrivateKey
)
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey | mldsa.MLDSA65PublicKey


def sign(key: PrivateKey, scheme: SignatureScheme, digest: bytes, role: Role) -> bytes:
    """Sign with a private key in memory that fits the scheme."""
    match key:
        case rsa.RSAPrivateKey():
            return key.sign(digest, _padding(scheme), utils.Prehashed(hashes.SHA256()))
        case ec.EllipticCurvePrivateKey():
            algorithm = ec.ECDSA(utils.Prehashed(_ecdsa_hash(scheme)), deterministic_signing=True)
            return ecdsa_from_der(scheme, key.sign(digest, algorithm), where="signature")
        case _:
            return key.sign(to_be_signed(scheme, digest, role))


def verify(key: PublicKey, scheme: SignatureScheme, signature: bytes, digest: bytes, role: Role) -> None:
    """Verify a signature under a public key that fits the scheme.

    Raises:
        InvalidSignature: It does not hold.
    """
    match key:
        case rsa.RSAPublicKey():
            key.verify(signature, digest, _padding(scheme), utils.Prehashed(hashes.SHA256()))
        case ec.EllipticCurvePublicKey():
            algorithm = ec.ECDSA(utils.Prehashed(_ecdsa_hash(scheme)))
            key.verify(ecdsa_to_der(signature), digest, algorithm)
        case _:
            key.verify(signature, to_be_signed(scheme, digest, role))


def _padding(scheme: SignatureScheme) -> padding.PKCS1v15 | padding.PSS:
    if scheme is SignatureScheme.RSA_PKCS1V15:
        return padding.PKCS1v15()
    return padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=PSS_SALT_SIZE)


def _ecdsa_hash(scheme: SignatureScheme) -> hashes.SHA256 | hashes.SHA384:
    return hashes.SHA256() if scheme is SignatureScheme.ECDSA_P256 else hashes.SHA384()

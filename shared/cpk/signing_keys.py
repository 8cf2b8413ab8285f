"""Keys that sign packages: public ones from hostile hands, private ones of the one who builds.

Which keys sign at all, and by which schemes, is decided here, once, for both sides.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding as KeyEncoding,
)
from cryptography.hazmat.primitives.serialization import (
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from shared.certificates import leaf_public_key, load_certificates
from shared.cpk.schemes import CertificateUrl, Encoding, PreSharedCertificate
from shared.cpk.signing import (
    EmbeddedCertificateBytes,
    EmbeddedPublicKeyBytes,
    PrivateKey,
    PublicKey,
    Role,
    SignatureScheme,
    SignerCertification,
    sign,
)
from shared.errors import FormatError
from shared.public_keys import load_public_key

if TYPE_CHECKING:
    from cryptography import x509

DEMO_KEY_SHA256 = bytes.fromhex("198e5be9542c97fd38a0acd2b5403e5602d38542923f86d03deb4beb5f67c2d5")
"""SHA-256 of the SubjectPublicKeyInfo whose private half stands in the reference tool's public source."""

MAX_SPKI_BYTES = 4096
"""Longest SubjectPublicKeyInfo that is looked at, in bytes; ML-DSA-65 has 1,974."""

_SCHEMES_BY_CURVE = {"secp256r1": SignatureScheme.ECDSA_P256, "secp384r1": SignatureScheme.ECDSA_P384}
_EXPECTED = "RSA of 2048, 3072 or 4096 bits with e = 65537, EC P-256 or P-384, Ed25519 or ML-DSA-65"


@dataclass(frozen=True, slots=True, kw_only=True)
class VerificationKey:
    """A checked public key that can verify signatures over packages.

    Attributes:
        spki: Its DER SubjectPublicKeyInfo, canonical.
        key: The loaded key.
        schemes: The schemes that it verifies; the first is the one to sign with unless told otherwise.
    """

    spki: bytes
    key: PublicKey
    schemes: tuple[SignatureScheme, ...]

    @property
    def sha256(self) -> bytes:
        """SHA-256 over :attr:`spki`: what a verifier pins."""
        return hashlib.sha256(self.spki).digest()

    @property
    def strength(self) -> int | None:
        """Bits of the modulus for RSA."""
        return self.key.key_size if isinstance(self.key, rsa.RSAPublicKey) else None

    def __str__(self) -> str:
        return f"RSA of {self.strength} bits" if self.strength else _NAMES[self.schemes[0]]


_NAMES = {
    SignatureScheme.ECDSA_P256: "EC P-256",
    SignatureScheme.ECDSA_P384: "EC P-384",
    SignatureScheme.ED25519: "Ed25519",
    SignatureScheme.ML_DSA_65: "ML-DSA-65",
}


def load_verification_key(spki: bytes, *, where: str) -> VerificationKey:
    """Load a DER SubjectPublicKeyInfo, to its last byte.

    Raises:
        FormatError: It is no such thing, not in its one canonical encoding, or a key that signs no packages.
    """
    if len(spki) > MAX_SPKI_BYTES:
        raise FormatError(f"{where}: expected a key of at most {MAX_SPKI_BYTES} bytes, found {len(spki)}")
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise FormatError(
            f"{where}: expected DER SubjectPublicKeyInfo, found {len(spki)} other bytes"
        ) from error
    schemes = _schemes_of(key)
    if not schemes:
        raise FormatError(f"{where}: expected {_EXPECTED}; found another kind of key")
    if isinstance(key, rsa.RSAPublicKey):
        load_public_key(spki, where=where)  # size, exponent and modulus
    if key.public_bytes(KeyEncoding.DER, PublicFormat.SubjectPublicKeyInfo) != spki:
        raise FormatError(f"{where}: the public key is not in canonical DER SubjectPublicKeyInfo encoding")
    return VerificationKey(spki=spki, key=cast("PublicKey", key), schemes=schemes)


def load_embedded_key(data: bytes, encoding: Encoding, *, where: str) -> VerificationKey:
    """Load a bare public key from PEM or DER; errors as for :func:`load_verification_key`."""
    if encoding is Encoding.PEM:
        try:
            key = load_pem_public_key(data)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise FormatError(
                f"{where}: expected PEM SubjectPublicKeyInfo, found {len(data)} other bytes"
            ) from error
        data = key.public_bytes(KeyEncoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return load_verification_key(data, where=where)


def certificate_key(leaf: x509.Certificate, *, where: str) -> VerificationKey:
    """Return a certificate's key; errors as for :func:`load_verification_key`."""
    return load_verification_key(leaf_public_key(leaf), where=where)


def read_certification(
    data: bytes, *, where: str
) -> tuple[EmbeddedCertificateBytes | EmbeddedPublicKeyBytes, VerificationKey, str]:
    """Tell from a file's bytes what it certifies a signature with.

    Args:
        data: PEM or DER; certificates with the leaf first, or one bare public key.
        where: What is being read, for the message.

    Returns:
        What to embed, the key to verify with, and whom it stands for: the leaf's subject (RFC 4514), or the
        SHA-256 of a bare key.

    Raises:
        FormatError: It is neither, or holds a key that signs no packages.
    """
    encoding = Encoding.PEM if b"-----BEGIN " in data else Encoding.DER
    if _is_public_key(data, encoding):
        key = load_embedded_key(data, encoding, where=where)
        return EmbeddedPublicKeyBytes(encoding=encoding, data=data), key, f"key {key.sha256.hex()}"
    leaf = load_certificates(data, where=where)[0]
    key = certificate_key(leaf, where=where)
    certification = EmbeddedCertificateBytes(encoding=encoding, data=data)
    return certification, key, leaf.subject.rfc4514_string()


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySigner:
    """A private key in memory with what certifies it.

    Attributes:
        private_key: The key; shown by nothing.
        scheme: How it signs.
        certification: What the package says about its public half.
        subject: Whom it stands for.
    """

    private_key: PrivateKey
    scheme: SignatureScheme
    certification: SignerCertification
    subject: str

    @classmethod
    def load(
        cls,
        private_key: object,
        certification: bytes | PreSharedCertificate | CertificateUrl,
        *,
        where: str,
        scheme: SignatureScheme | None = None,
    ) -> KeySigner:
        """Check that key, certification and scheme belong together.

        Args:
            private_key: A loaded private key of any kind.
            certification: A certificate chain or bare public key, PEM or DER; or where verifiers find it.
            where: What the certification was read from, for the message.
            scheme: How to sign; by default RSASSA-PKCS1-v1_5 for RSA, and a curve's own scheme.

        Raises:
            FormatError: A key that signs no packages, a certificate for another key, or the demo key.
        """
        own = _public_half(private_key)
        if isinstance(certification, bytes):
            found, certified, subject = read_certification(certification, where=where)
            if certified.spki != own.spki:
                raise FormatError(
                    f"{where}: expected the signing key's certificate, found one for another key"
                )
            certified_by: SignerCertification = found
        else:
            certified_by, subject = certification, certification.place
        if own.sha256 == DEMO_KEY_SHA256:
            raise FormatError(
                f"{where}: expected a key of your own, found the reference tool's public demo key"
            )
        return cls(
            private_key=cast("PrivateKey", private_key),
            scheme=choose_scheme(own, scheme),
            certification=certified_by,
            subject=subject,
        )

    @property
    def key_strength(self) -> int | None:
        """Bits of the modulus for RSA."""
        return self.private_key.key_size if isinstance(self.private_key, rsa.RSAPrivateKey) else None

    def sign(self, digest: bytes, role: Role) -> bytes:
        """Return the signature over a digest."""
        return sign(self.private_key, self.scheme, digest, role)


def choose_scheme(key: VerificationKey, wanted: SignatureScheme | None) -> SignatureScheme:
    """Return the scheme to sign with: the wanted one, else the key's first.

    Raises:
        FormatError: The key does not sign so.
    """
    scheme = wanted if wanted is not None else key.schemes[0]
    if scheme not in key.schemes:
        can = " or ".join(each.value for each in key.schemes)
        raise FormatError(
            f"signing key: expected one that signs {scheme.value}, found {key}, which signs {can}"
        )
    return scheme


def _public_half(private_key: object) -> VerificationKey:
    match private_key:
        case (
            rsa.RSAPrivateKey()
            | ec.EllipticCurvePrivateKey()
            | ed25519.Ed25519PrivateKey()
            | mldsa.MLDSA65PrivateKey()
        ):
            public = private_key.public_key()
        case _:
            raise FormatError(f"signing key: expected {_EXPECTED}; found another kind of key")
    spki = public.public_bytes(KeyEncoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return load_verification_key(spki, where="signing key")


def _schemes_of(key: object) -> tuple[SignatureScheme, ...]:
    match key:
        case rsa.RSAPublicKey():
            return (SignatureScheme.RSA_PKCS1V15, SignatureScheme.RSA_PSS)
        case ec.EllipticCurvePublicKey() if key.curve.name in _SCHEMES_BY_CURVE:
            return (_SCHEMES_BY_CURVE[key.curve.name],)
        case ed25519.Ed25519PublicKey():
            return (SignatureScheme.ED25519,)
        case mldsa.MLDSA65PublicKey():
            return (SignatureScheme.ML_DSA_65,)
        case _:
            return ()


def _is_public_key(data: bytes, encoding: Encoding) -> bool:
    if encoding is Encoding.PEM:
        return b"-----BEGIN PUBLIC KEY-----" in data
    try:
        load_der_public_key(data)
    except (ValueError, UnsupportedAlgorithm):
        return False
    return True

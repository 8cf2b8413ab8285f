"""The manifest's schemes: how a section is encrypted, digested, signed, certified (specification, section 5).

Each is a value here; a scheme of ``"none"`` is ``None``. Their JSON is read and written by
:mod:`shared.cpk.scheme_json`. Indices are those of the stream table.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.cpk.hashing import HashAlgorithm

if TYPE_CHECKING:
    from collections.abc import Mapping

NONCE_SIZE = 12
"""Bytes of the nonce of AES-GCM (NIST SP 800-38D, section 8.2.2) and ChaCha20-Poly1305 (RFC 8439)."""

TAG_SIZE = 16
"""Bytes of an AES-GCM or Poly1305 tag."""

GCM_MAX_BYTES = 2**36 - 32
"""Most plaintext bytes under one AES-GCM nonce (NIST SP 800-38D, section 5.2.1.1)."""

CHACHA20_MAX_BYTES = 2**38 - 64
"""Most plaintext bytes under one ChaCha20-Poly1305 nonce (RFC 8439, section 2.8)."""

SALT_SIZE = 32
"""Bytes of the salt that a segmented payload's key is derived with."""

PREFIX_SIZE = 7
"""Bytes of nonce that all segments share; a u32 counter and the last-segment flag follow."""

MAX_SEGMENTS = 2**32
"""Most segments of a payload: as many as the u32 counter tells apart."""

MIN_SEGMENT_SIZE = 1 << 16
MAX_SEGMENT_SIZE = 1 << 20

AES_STRENGTHS = (128, 192, 256)
CHACHA20_STRENGTH = 256
RSA_STRENGTHS = (2048, 3072, 4096)


class Encoding(enum.Enum):
    """How an embedded certificate or public key is written in its stream."""

    PEM = "pem"
    DER = "der"


class SignatureScheme(enum.Enum):
    """How a digest is signed; the value is the manifest's tag."""

    RSA_PKCS1V15 = "rsa-pkcs1v15"
    RSA_PSS = "rsa-pss"
    ECDSA_P256 = "ecdsa-p256"
    ECDSA_P384 = "ecdsa-p384"
    ED25519 = "ed25519"
    ML_DSA_65 = "ml-dsa-65"

    @property
    def digest_algorithm(self) -> HashAlgorithm | None:
        """What the signed digest is made with; ``None`` for pure schemes, which sign one of any algorithm."""
        return _SIGNED_DIGESTS.get(self)

    @property
    def is_rsa(self) -> bool:
        """Whether the manifest says the modulus' length beside the signature."""
        return self in {SignatureScheme.RSA_PKCS1V15, SignatureScheme.RSA_PSS}

    @property
    def is_ecdsa(self) -> bool:
        """Whether a signature is a pair of numbers, which other tools write in DER."""
        return self in {SignatureScheme.ECDSA_P256, SignatureScheme.ECDSA_P384}

    @property
    def is_reproducible(self) -> bool:
        """Whether signing twice gives the same bytes (ECDSA does so by RFC 6979)."""
        return self not in {SignatureScheme.RSA_PSS, SignatureScheme.ML_DSA_65}

    def signature_size(self, key_strength: int | None) -> int:
        """Return the bytes of a signature.

        Args:
            key_strength: Bits of the modulus for RSA; ignored otherwise.
        """
        return (key_strength or 0) // 8 if self.is_rsa else _SIGNATURE_SIZES[self]


_SIGNED_DIGESTS: Mapping[SignatureScheme, HashAlgorithm] = {
    SignatureScheme.RSA_PKCS1V15: HashAlgorithm.SHA256,
    SignatureScheme.RSA_PSS: HashAlgorithm.SHA256,
    SignatureScheme.ECDSA_P256: HashAlgorithm.SHA256,
    SignatureScheme.ECDSA_P384: HashAlgorithm.SHA384,
}

_SIGNATURE_SIZES: Mapping[SignatureScheme, int] = {
    SignatureScheme.ECDSA_P256: 64,  # r and s, 32 bytes each, big-endian (IEEE P1363)
    SignatureScheme.ECDSA_P384: 96,
    SignatureScheme.ED25519: 64,  # RFC 8032 section 5.1.6
    SignatureScheme.ML_DSA_65: 3309,  # FIPS 204, table 2
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AesGcm:
    """AES-GCM without associated data, the tag in a stream of its own.

    Attributes:
        key_name: The class key's name as the package says it; not yet a checked ``KeyName``.
        key_strength: Bits of the key: 128, 192 or 256.
        nonce: Stream index of the 12-byte nonce.
        tag: Stream index of the 16-byte tag.
        key_version: Version of the class key, an extension; ``None`` where the package does not say.
    """

    key_name: str
    key_strength: int
    nonce: int
    tag: int
    key_version: int | None

    def __str__(self) -> str:
        return f"AES-{self.key_strength}-GCM"

    @property
    def max_payload(self) -> int:
        """Most bytes of payload in clear."""
        return GCM_MAX_BYTES

    def stored_size(self, payload_size: int) -> int:
        """Return the bytes of the payload's stream for a payload in clear of ``payload_size`` bytes."""
        return payload_size


@dataclass(frozen=True, slots=True, kw_only=True)
class ChaCha20Poly1305:
    """ChaCha20-Poly1305 (RFC 8439) without associated data; attributes as for :class:`AesGcm`."""

    key_name: str
    nonce: int
    tag: int
    key_version: int | None

    def __str__(self) -> str:
        return "ChaCha20-Poly1305"

    @property
    def key_strength(self) -> int:
        """Bits of the key: always 256."""
        return CHACHA20_STRENGTH

    @property
    def max_payload(self) -> int:
        """Most bytes of payload in clear."""
        return CHACHA20_MAX_BYTES

    def stored_size(self, payload_size: int) -> int:
        """Return the bytes of the payload's stream for a payload in clear of ``payload_size`` bytes."""
        return payload_size


@dataclass(frozen=True, slots=True, kw_only=True)
class AesGcmStream:
    """AES-GCM in segments, the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár 2015).

    Attributes:
        key_name: As for :class:`AesGcm`.
        key_strength: Bits of the class key and of the key derived from it: 128, 192 or 256.
        segment_size: Bytes in clear of every segment but the last: a power of two, 64 KiB to 1 MiB.
        salt: Stream index of the 32 bytes that the package's key is derived with.
        prefix: Stream index of the 7 bytes that every segment's nonce begins with.
        key_version: As for :class:`AesGcm`.
    """

    key_name: str
    key_strength: int
    segment_size: int
    salt: int
    prefix: int
    key_version: int | None

    def __str__(self) -> str:
        return f"AES-{self.key_strength}-GCM in segments of {self.segment_size} bytes"

    @property
    def max_payload(self) -> int:
        """Most bytes of payload in clear: 256 TiB to 4 PiB."""
        return MAX_SEGMENTS * self.segment_size

    def segment_count(self, payload_size: int) -> int:
        """Return how many segments a payload in clear of ``payload_size`` bytes, at least 1, has."""
        return -(-payload_size // self.segment_size)

    def stored_size(self, payload_size: int) -> int:
        """Return the bytes of the payload's stream for a payload in clear of ``payload_size`` bytes."""
        return payload_size + TAG_SIZE * self.segment_count(payload_size)


Encryption = AesGcm | ChaCha20Poly1305 | AesGcmStream


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """A digest in stream ``data``.

    Attributes:
        algorithm: The hash.
        data: Stream index of the digest.
        of_ciphertext: Whether it is over the payload's stream as stored and not over the payload in clear;
            never so for a package, whose digest is over stored streams anyway.
    """

    algorithm: HashAlgorithm
    data: int
    of_ciphertext: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A signature in stream ``data``; ``key_strength`` is the modulus' bits for RSA, else ``None``."""

    scheme: SignatureScheme
    key_strength: int | None
    data: int

    @property
    def size(self) -> int:
        """Bytes of the signature."""
        return self.scheme.signature_size(self.key_strength)


@dataclass(frozen=True, slots=True, kw_only=True)
class PreSharedCertificate:
    """The device knows the certificate by its producer's ``domain``; trusted if the verifier has it."""

    domain: str

    @property
    def place(self) -> str:
        """Where the certificate is, for people."""
        return f"the device's own certificate for {self.domain}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateUrl:
    """The certificate lies at ``url``; never fetched here, trusted only if the caller brings it along."""

    url: str

    @property
    def place(self) -> str:
        """Where the certificate is, for people."""
        return f"the certificate at {self.url}"


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedCertificate:
    """An X.509 certificate, or a chain with the leaf first, in stream ``data``."""

    data: int
    encoding: Encoding


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddedPublicKey:
    """A bare SubjectPublicKeyInfo in stream ``data``; trusted only if the verifier has pinned it."""

    data: int
    encoding: Encoding


Certification = PreSharedCertificate | CertificateUrl | EmbeddedCertificate | EmbeddedPublicKey

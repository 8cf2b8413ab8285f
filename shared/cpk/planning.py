"""Plan a package: its streams, their sizes and its manifest, all before the first byte (specification 8).

====== ============= ============ ====================================================================
signed unsigned      bytes        stream
====== ============= ============ ====================================================================
0      0             payload      encrypted, with the tags of its segments if it has any
1      1             12 or 32     nonce, or salt
2      2             16 or 7      tag, or nonce prefix
3      3             32 to 64     the payload's digest
4                    by scheme    the payload's signature
5                    as given     certificate or public key; missing where neither is embedded
6                    32 to 64     digest over the mapped streams: all that the manifest names, up to here
7                    by scheme    signature over the same
8      4             JSON         manifest
====== ============= ============ ====================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.cpk.manifest import Manifest, PackageSection, Payload, Target, Version
from shared.cpk.profiles import Cipher, Profile
from shared.cpk.schemes import (
    NONCE_SIZE,
    PREFIX_SIZE,
    SALT_SIZE,
    TAG_SIZE,
    AesGcm,
    AesGcmStream,
    Certification,
    ChaCha20Poly1305,
    Digest,
    EmbeddedCertificate,
    EmbeddedPublicKey,
    Encryption,
    Signature,
)
from shared.cpk.signing import EmbeddedCertificateBytes, EmbeddedPublicKeyBytes, Signer, signature_size
from shared.errors import FormatError

if TYPE_CHECKING:
    from shared.types import KeyName, Secret

_PAYLOAD = 0
_STREAMS_OF_THE_CIPHER = {
    Cipher.AES_GCM: (NONCE_SIZE, TAG_SIZE),
    Cipher.CHACHA20_POLY1305: (NONCE_SIZE, TAG_SIZE),
    Cipher.AES_GCM_STREAM: (SALT_SIZE, PREFIX_SIZE),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What the manifest says about the application.

    Attributes:
        id: Its ``cp-id``, 1 to 256 characters.
        name: Its name for people.
        vendor: Its vendor for people.
        target: The machine that it was built for.
        version: Its version and build date.
    """

    id: str
    name: str
    vendor: str
    target: Target
    version: Version


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassKey:
    """The class key to seal under; ``version`` is written into the manifest where it is known."""

    name: KeyName
    version: int | None
    key: Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A package that is about to be written.

    Attributes:
        manifest: Its manifest.
        encryption: The manifest's encryption scheme.
        sizes: Bytes of every stream before the manifest, which is the last.
    """

    manifest: Manifest
    encryption: Encryption
    sizes: tuple[int, ...]


def plan_package(
    payload_size: int,
    *,
    description: Description,
    class_key: ClassKey,
    signer: Signer | None,
    profile: Profile,
    package_signature: bool,
) -> Plan:
    """Return the plan.

    Args:
        payload_size: Bytes of the payload in clear.
        description: What the manifest says about the application.
        class_key: The class key to seal under.
        signer: Signs payload and package; ``None`` leaves both unsigned.
        profile: Which schemes to use.
        package_signature: Whether a signer signs the package, too.

    Raises:
        FormatError: Key, signer or payload do not fit the profile.
    """
    if len(class_key.key) * 8 not in profile.strengths:
        lengths = [str(bits // 8) for bits in profile.strengths]
        expected = " or ".join((", ".join(lengths[:-1]), lengths[-1]) if lengths[1:] else lengths)
        raise FormatError(
            f"class key {class_key.name}: expected {expected} bytes, found {len(class_key.key)}"
        )
    if signer is not None:
        profile.check_signature(signer.scheme)
        if profile.of_ciphertext and not package_signature:
            raise FormatError(
                f"profile {profile.name}: expected a package signature beside the payload's, found none"
            )
    first, second = 1, 2
    encryption = _encryption(profile, class_key, first, second)
    if not 0 < payload_size <= encryption.max_payload:
        raise FormatError(f"payload: expected 1 to {encryption.max_payload} bytes, found {payload_size}")
    sizes = [encryption.stored_size(payload_size), *_STREAMS_OF_THE_CIPHER[profile.cipher]]
    algorithm = profile.digest_for(signer.scheme if signer is not None else None)
    digest = Digest(
        algorithm=algorithm, data=_add(sizes, algorithm.size), of_ciphertext=profile.of_ciphertext
    )
    signature = certification = None
    if signer is not None:
        signature = _signature(signer, sizes)
        certification = _certification(signer, sizes)
    payload = Payload(
        data=_PAYLOAD,
        target=description.target,
        version=description.version,
        encryption=encryption,
        digest=digest,
        signature=signature,
        certification=certification,
    )
    if signer is None or not package_signature:
        package = _unsigned_section(len(sizes))
    else:
        package = _signed_section(signer, sizes, digest, certification)
    manifest = Manifest(
        id=description.id, name=description.name, vendor=description.vendor, payload=payload, package=package
    )
    return Plan(manifest=manifest, encryption=encryption, sizes=tuple(sizes))


def _add(sizes: list[int], size: int) -> int:
    """Add a stream; return its index."""
    sizes.append(size)
    return len(sizes) - 1


def _encryption(profile: Profile, class_key: ClassKey, first: int, second: int) -> Encryption:
    strength = len(class_key.key) * 8
    match profile.cipher:
        case Cipher.AES_GCM:
            return AesGcm(
                key_name=class_key.name,
                key_strength=strength,
                nonce=first,
                tag=second,
                key_version=class_key.version,
            )
        case Cipher.CHACHA20_POLY1305:
            return ChaCha20Poly1305(
                key_name=class_key.name, nonce=first, tag=second, key_version=class_key.version
            )
        case Cipher.AES_GCM_STREAM:
            return AesGcmStream(
                key_name=class_key.name,
                key_strength=strength,
                segment_size=profile.segment_size,
                salt=first,
                prefix=second,
                key_version=class_key.version,
            )


def _signature(signer: Signer, sizes: list[int]) -> Signature:
    place = _add(sizes, signature_size(signer))
    return Signature(scheme=signer.scheme, key_strength=signer.key_strength, data=place)


def _certification(signer: Signer, sizes: list[int]) -> Certification:
    match signer.certification:
        case EmbeddedCertificateBytes(encoding=encoding, data=data):
            return EmbeddedCertificate(data=_add(sizes, len(data)), encoding=encoding)
        case EmbeddedPublicKeyBytes(encoding=encoding, data=data):
            return EmbeddedPublicKey(data=_add(sizes, len(data)), encoding=encoding)
        case elsewhere:
            return elsewhere


def _unsigned_section(manifest_index: int) -> PackageSection:
    """Return what the reference tool writes: a map for information."""
    return PackageSection(
        map=tuple(range(manifest_index + 1)), digest=None, signature=None, certification=None, layout=None
    )


def _signed_section(
    signer: Signer, sizes: list[int], digest: Digest, certification: Certification | None
) -> PackageSection:
    covered = range(len(sizes))
    own_digest = Digest(algorithm=digest.algorithm, data=_add(sizes, digest.algorithm.size))
    signature = _signature(signer, sizes)
    manifest_index = len(sizes)
    # The manifest is known first, so the reference order begins with it. A payload whose digest is over its
    # ciphertext begins the map instead: one hash then makes both digests.
    mapped = (*covered, manifest_index) if digest.of_ciphertext else (manifest_index, *covered)
    return PackageSection(
        map=mapped,
        digest=own_digest,
        signature=signature,
        certification=certification,
        layout=dict(enumerate(sizes)),
    )

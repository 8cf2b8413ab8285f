"""Sign a package with a key that is nowhere near it: seal with gaps, say what to sign, fill the gaps.

An :class:`OfflineSigner` takes the place of a key when a package is sealed; its signatures are zeros of the
right size, so the package is whole but for them and every reader refuses it. What the key's holder signs is
told by :func:`payload_to_sign` and then, because the package's signature covers the payload's, by
:func:`package_to_sign`. :func:`fill_signatures` checks what comes back and writes the finished package. A
signature over a payload in clear can also be made first, from the payload alone, and given to the signer.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from cryptography.exceptions import InvalidSignature

from shared.cpk.digests import signed_algorithm
from shared.cpk.frame import read_at
from shared.cpk.package import Package, inspect_package
from shared.cpk.pipeline import BLOCK
from shared.cpk.schemes import (
    CertificateUrl,
    EmbeddedCertificate,
    EmbeddedPublicKey,
    PreSharedCertificate,
    Signature,
    SignatureScheme,
)
from shared.cpk.signing import Role, SignerCertification, ecdsa_from_der, to_be_signed, verify
from shared.cpk.signing_keys import VerificationKey, certificate_key, choose_scheme, read_certification
from shared.errors import FormatError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from shared.cpk.hashing import HashAlgorithm
    from shared.cpk.manifest import PackageSection, Payload


@dataclass(frozen=True, slots=True, kw_only=True)
class SigningRequest:
    """What the key's holder has to sign.

    Attributes:
        role: What the signature will be over.
        scheme: How to sign.
        algorithm: What the digest is made with.
        digest: The digest.
        message: The bytes to sign: for a pure scheme a message around the digest, else the digest itself,
            which is signed as a hash that has been made already.
    """

    role: Role
    scheme: SignatureScheme
    algorithm: HashAlgorithm
    digest: bytes
    message: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class OfflineSigner:
    """Seals in place of a key that signs later, or that has signed the payload already.

    Attributes:
        scheme: How the key signs.
        key: Its public half.
        certification: What the package says about it.
        subject: Whom it stands for.
        payload_signature: The signature over the payload's digest, if it was made before.
    """

    scheme: SignatureScheme
    key: VerificationKey
    certification: SignerCertification
    subject: str
    payload_signature: bytes | None

    @classmethod
    def load(
        cls,
        certification: bytes,
        *,
        where: str,
        scheme: SignatureScheme | None = None,
        place: PreSharedCertificate | CertificateUrl | None = None,
        payload_signature: bytes | None = None,
    ) -> OfflineSigner:
        """Return a signer for the key that is certified.

        Args:
            certification: Certificate chain or bare public key, PEM or DER.
            where: What it was read from, for the message.
            scheme: How the key will sign; by default as for ``KeySigner``.
            place: Where verifiers find the certificate, if it is not to be embedded.
            payload_signature: Made before; as it will stand in the package, or DER for ECDSA.

        Raises:
            FormatError: No such thing, a key that does not sign so, or a signature of the wrong size.
        """
        embedded, key, subject = read_certification(certification, where=where)
        chosen = choose_scheme(key, scheme)
        if payload_signature is not None:
            payload_signature = _fixed_length(chosen, key.strength, payload_signature, Role.PAYLOAD)
        return cls(
            scheme=chosen,
            key=key,
            certification=place if place is not None else embedded,
            subject=subject,
            payload_signature=payload_signature,
        )

    @property
    def key_strength(self) -> int | None:
        """Bits of the modulus for RSA."""
        return self.key.strength

    def sign(self, digest: bytes, role: Role) -> bytes:
        """Return the signature that was made before, or zeros in the place of one.

        Raises:
            VerificationError: ``payload_signature_invalid``; what was made before is for another payload.
        """
        if role is Role.PACKAGE or self.payload_signature is None:
            return bytes(self.scheme.signature_size(self.key_strength))
        _check(self.key, self.scheme, self.payload_signature, digest, role)
        return self.payload_signature


def request_for(
    scheme: SignatureScheme, algorithm: HashAlgorithm, digest: bytes, role: Role
) -> SigningRequest:
    """Return what to sign for a digest; for a payload in clear it needs no package."""
    message = to_be_signed(scheme, digest, role)
    return SigningRequest(role=role, scheme=scheme, algorithm=algorithm, digest=digest, message=message)


def payload_to_sign(file: BinaryIO, size: int) -> SigningRequest:
    """Return what is to be signed for the payload of a prepared package.

    A digest of the ciphertext is computed here. One of the payload in clear is taken from the package: only
    who has the class key can check it.

    Args:
        file: The prepared package, seekable.
        size: Its length in bytes.

    Raises:
        FormatError: No package, or one whose payload is not to be signed.
    """
    package = inspect_package(file, size)
    signature = _required(package.manifest.payload, Role.PAYLOAD)
    algorithm = signed_algorithm(signature, package.manifest.payload.digest)
    digest = _payload_digest(file, package, algorithm)
    return request_for(signature.scheme, algorithm, digest, Role.PAYLOAD)


def package_to_sign(file: BinaryIO, size: int, *, payload_signature: bytes | None = None) -> SigningRequest:
    """Return what is to be signed for a prepared package as a whole.

    Args:
        file: The prepared package, seekable.
        size: Its length in bytes.
        payload_signature: The payload's, unless the package holds it already; DER for ECDSA is taken, too.

    Raises:
        FormatError: No package, one that is not to be signed, or one without its payload's signature.
    """
    package = inspect_package(file, size)
    signature = _required(package.manifest.package, Role.PACKAGE)
    algorithm = signed_algorithm(signature, package.manifest.package.digest)
    filled = _fill_payload(package, payload_signature)
    digest = _package_digest(file, package, algorithm, filled)
    return request_for(signature.scheme, algorithm, digest, Role.PACKAGE)


def fill_signatures(
    file: BinaryIO,
    size: int,
    output: BinaryIO,
    *,
    payload_signature: bytes | None = None,
    package_signature: bytes | None = None,
    certificate: bytes | None = None,
) -> None:
    """Write a prepared package with its signatures, after checking them.

    Args:
        file: The prepared package, seekable.
        size: Its length in bytes.
        output: Where the package goes; worthless after an exception.
        payload_signature: The payload's, unless the package holds it already; DER for ECDSA is taken, too.
        package_signature: The package's. Without it the payload's alone is filled in.
        certificate: Chain or bare key to check with, where the package embeds none.

    Raises:
        FormatError: No package, one that is not to be signed so, or a signature of the wrong size.
        VerificationError: ``payload_signature_invalid`` or ``package_signature_invalid``.
    """
    package = inspect_package(file, size)
    payload, whole = package.manifest.payload, package.manifest.package
    signature = _required(payload, Role.PAYLOAD)
    patches = _fill_payload(package, payload_signature)
    digest = _payload_digest(file, package, signed_algorithm(signature, payload.digest))
    key = _key(package, payload, certificate)
    _check(key, signature.scheme, patches[signature.data], digest, Role.PAYLOAD)
    if package_signature is not None:
        signature = _required(whole, Role.PACKAGE)
        filled = _fixed_length(signature.scheme, signature.key_strength, package_signature, Role.PACKAGE)
        digest = _package_digest(file, package, signed_algorithm(signature, whole.digest), patches)
        _check(_key(package, whole, certificate), signature.scheme, filled, digest, Role.PACKAGE)
        patches[signature.data] = filled
    if whole.digest is not None:
        patches[whole.digest.data] = _package_digest(file, package, whole.digest.algorithm, patches)
    _copy_patched(file, package, output, patches)


def _required(section: Payload | PackageSection, role: Role) -> Signature:
    if section.signature is None:
        raise FormatError(f'manifest /{role.value}/sig: expected a signature to be made, found "none"')
    return section.signature


def _payload_digest(file: BinaryIO, package: Package, algorithm: HashAlgorithm) -> bytes:
    payload = package.manifest.payload
    if payload.digest is None or payload.digest.algorithm is not algorithm:
        found = payload.digest.algorithm.value if payload.digest is not None else "none"
        raise FormatError(
            f"manifest /payload/dig: expected {algorithm.value}, which is to be signed, found {found}"
        )
    if payload.digest.of_ciphertext:
        return _hash(_pieces(file, package, payload.data), algorithm)
    return package.contents[payload.digest.data]


def _package_digest(
    file: BinaryIO, package: Package, algorithm: HashAlgorithm, filled: Mapping[int, bytes]
) -> bytes:
    mapped = package.manifest.package.map
    pieces = (
        piece
        for index in mapped
        for piece in ([filled[index]] if index in filled else _pieces(file, package, index))
    )
    return _hash(pieces, algorithm)


def _hash(pieces: Iterator[bytes], algorithm: HashAlgorithm) -> bytes:
    computed = hashlib.new(algorithm.value)
    for piece in pieces:
        computed.update(piece)
    return computed.digest()


def _pieces(file: BinaryIO, package: Package, index: int) -> Iterator[bytes]:
    """Yield a stream's bytes, those that were parsed as they were parsed."""
    if index in package.contents:
        yield package.contents[index]
        return
    yield from _read(file, package.frame.file_offset(index), package.frame.streams[index].size)


def _read(file: BinaryIO, offset: int, size: int) -> Iterator[bytes]:
    for done in range(0, size, BLOCK):
        yield read_at(file, offset + done, min(BLOCK, size - done), what="package")


def _fill_payload(package: Package, given: bytes | None) -> dict[int, bytes]:
    """Return the payload's signature by its stream: the given one, else the package's own."""
    signature = _required(package.manifest.payload, Role.PAYLOAD)
    filled = package.contents[signature.data]
    if given is not None:
        filled = _fixed_length(signature.scheme, signature.key_strength, given, Role.PAYLOAD)
    if not any(filled):
        raise FormatError(
            f"stream {signature.data} (signature): expected the payload's signature, found none yet"
        )
    return {signature.data: filled}


def _fixed_length(scheme: SignatureScheme, key_strength: int | None, signature: bytes, role: Role) -> bytes:
    """Return a signature as packages hold it; ECDSA comes in DER from most tools."""
    expected = scheme.signature_size(key_strength)
    if len(signature) != expected and scheme.is_ecdsa:
        return ecdsa_from_der(scheme, signature, where=f"{role.value} signature")
    if len(signature) != expected:
        raise FormatError(
            f"{role.value} signature: expected {expected} bytes of {scheme.value}, found {len(signature)}"
        )
    return signature


def _key(package: Package, section: Payload | PackageSection, certificate: bytes | None) -> VerificationKey:
    match section.certification:
        case EmbeddedCertificate(data=data):
            return certificate_key(package.certificates[data][0], where=f"stream {data} (certificate)")
        case EmbeddedPublicKey(data=data):
            return package.public_keys[data]
        case _ if certificate is not None:
            return read_certification(certificate, where="certificate")[1]
        case _:
            raise FormatError("certificate: expected one to check with, because the package embeds none")


def _check(
    key: VerificationKey, scheme: SignatureScheme, signature: bytes, digest: bytes, role: Role
) -> None:
    code = f"{role.value}_signature_invalid"
    if scheme not in key.schemes:
        raise VerificationError(f"{role.value} signature: expected {scheme.value}, found {key}", code=code)
    try:
        verify(key.key, scheme, signature, digest, role)
    except InvalidSignature as error:
        raise VerificationError(
            f"{role.value} signature: {scheme.value} does not hold over {digest.hex()} under the key of the "
            "certificate",
            code=code,
        ) from error


def _copy_patched(file: BinaryIO, package: Package, output: BinaryIO, patches: Mapping[int, bytes]) -> None:
    """Copy the file, with some of its streams replaced by others of the same length."""
    place = 0
    for index, data in sorted(patches.items(), key=lambda patch: package.frame.file_offset(patch[0])):
        start = package.frame.file_offset(index)
        _write(output, _read(file, place, start - place))
        _write(output, iter([data]))
        place = start + len(data)
    _write(output, _read(file, place, package.size - place))


def _write(output: BinaryIO, pieces: Iterator[bytes]) -> None:
    for piece in pieces:
        view = memoryview(piece)
        while view:
            view = view[output.write(view) :]

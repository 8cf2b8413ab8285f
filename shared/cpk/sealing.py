"""Seal a payload into a package: digest, encrypt, sign, in one pass (specification, section 8).

Every size is known before the first byte (:mod:`shared.cpk.planning`), so frame and manifest are fixed first
and the file is written from front to back, even into a pipe::

    sealed = seal_package(
        source, size, output, description=description, class_key=key, nonce=os.urandom(profile.nonce_size),
        signer=signer, profile=profile,
    )
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from typing import BinaryIO, cast

from shared.cpk.digests import PackageDigests
from shared.cpk.encryption import PayloadNonce, Sealer, start_sealing
from shared.cpk.frame import encode_frame
from shared.cpk.manifest import Manifest, encode_manifest, parse_manifest
from shared.cpk.pipeline import Reader, copy_blocks, fill
from shared.cpk.planning import ClassKey, Description, Plan, plan_package
from shared.cpk.profiles import REFERENCE, Cipher, Profile
from shared.cpk.schemes import SALT_SIZE
from shared.cpk.signing import EmbeddedCertificateBytes, EmbeddedPublicKeyBytes, Role, Signer, signature_size
from shared.errors import FormatError

__all__ = ["ClassKey", "Description", "SealedPackage", "seal_package"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SealedPackage:
    """What was written: the manifest, and how many bytes in all."""

    manifest: Manifest
    size: int


def seal_package(
    source: BinaryIO,
    payload_size: int,
    output: BinaryIO,
    *,
    description: Description,
    class_key: ClassKey,
    nonce: bytes,
    signer: Signer | None,
    profile: Profile = REFERENCE,
    package_signature: bool = True,
    parallel: bool | None = None,
) -> SealedPackage:
    """Write a package that holds what ``source`` reads.

    Args:
        source: The payload in clear, at its start.
        payload_size: Its length in bytes, from ``fstat``; at least 1.
        output: Where the package goes, written once from front to back; not flushed. Worthless after an
            exception.
        description: What the manifest says about the application.
        class_key: The class key, of a length that the profile takes.
        nonce: ``profile.nonce_size`` bytes fresh from the operating system's random source. Twice the same
            ones under one key give both payloads away.
        signer: Signs payload and package; without one the package is unsigned.
        profile: Which schemes to use.
        package_signature: Whether the signer signs the package, too.
        parallel: Whether digests run on threads of their own; by default for payloads of 4 MiB and more.

    Raises:
        FormatError: A value does not fit the format or the profile, or the source is not ``payload_size``
            bytes long.
    """
    plan = plan_package(
        payload_size,
        description=description,
        class_key=class_key,
        signer=signer,
        profile=profile,
        package_signature=package_signature,
    )
    parts = _split_nonce(profile, nonce)
    text = encode_manifest(plan.manifest)
    parse_manifest(text, stream_count=len(plan.sizes) + 1)  # a description that no reader takes ends here
    sealer = start_sealing(
        plan.encryption,
        class_key.key,
        parts,
        payload_size=payload_size,
        manifest_sha256=hashlib.sha256(text).digest(),
    )
    digests = PackageDigests(plan.manifest, size=payload_size, parallel=parallel)
    with contextlib.closing(digests):
        writer = _Writer(output, digests)
        writer.write(encode_frame([*plan.sizes, len(text)], manifest_index=len(plan.sizes)), mapped=False)
        if plan.manifest.package.map[0] == len(plan.sizes):
            digests.add_mapped(text)
        _copy_payload(source, payload_size, sealer, digests, writer)
        writer.write(parts.nonce or parts.salt)
        writer.write(sealer.finish() or parts.prefix)
        _write_rest(plan, text, signer, digests, writer)
    return SealedPackage(manifest=plan.manifest, size=writer.written)


class _Writer:
    """Writes all of every buffer, and digests it where the package's signature covers it."""

    def __init__(self, output: BinaryIO, digests: PackageDigests) -> None:
        self._output = output
        self._digests = digests
        self.written = 0

    def write(self, data: bytes | memoryview, *, mapped: bool = True) -> None:
        """Write a stream, or a piece of one."""
        if mapped:
            self._digests.add_mapped(data)
        view = memoryview(data)
        while view:
            view = view[self._output.write(view) :]
        self.written += len(data)


def _split_nonce(profile: Profile, nonce: bytes) -> PayloadNonce:
    if len(nonce) != profile.nonce_size:
        raise FormatError(f"nonce: expected {profile.nonce_size} bytes, found {len(nonce)}")
    if profile.cipher is Cipher.AES_GCM_STREAM:
        return PayloadNonce(salt=nonce[:SALT_SIZE], prefix=nonce[SALT_SIZE:])
    return PayloadNonce(nonce=nonce)


def _copy_payload(
    source: BinaryIO, payload_size: int, sealer: Sealer, digests: PackageDigests, writer: _Writer
) -> None:
    """Read, digest, encrypt and write the payload, and hold the source to its size."""
    reader = cast("Reader", source)

    def ended_early(found: int) -> FormatError:
        return FormatError(f"payload: expected {payload_size} bytes, it ends after {found}")

    copy_blocks(
        reader,
        payload_size,
        sink=lambda chunk: writer.write(chunk, mapped=False),
        ended_early=ended_early,
        before=digests.clear,
        transform=sealer,
        after=digests.stored,
        block=sealer.block,
        growth=sealer.growth,
    )
    if fill(reader, memoryview(bytearray(1))):
        raise FormatError(f"payload: expected {payload_size} bytes, it grew while it was read")
    digests.end_payload()


def _write_rest(
    plan: Plan, text: bytes, signer: Signer | None, digests: PackageDigests, writer: _Writer
) -> None:
    """Write what follows the payload and its cipher's two streams: digests, signatures, the manifest."""
    payload, package = plan.manifest.payload, plan.manifest.package
    if payload.digest is not None:
        digest = digests.payload(payload.digest.algorithm)
        writer.write(digest)
        if signer is not None:
            writer.write(_signed(signer, digest, Role.PAYLOAD))
            if isinstance(signer.certification, EmbeddedCertificateBytes | EmbeddedPublicKeyBytes):
                writer.write(signer.certification.data)
    if package.map[-1] == len(plan.sizes):
        digests.add_mapped(text)
    if signer is not None and package.digest is not None:
        digest = digests.package(package.digest.algorithm)
        writer.write(digest, mapped=False)
        writer.write(_signed(signer, digest, Role.PACKAGE), mapped=False)
    writer.write(text, mapped=False)


def _signed(signer: Signer, digest: bytes, role: Role) -> bytes:
    """Return a signature of the size that the frame already promises."""
    signature = signer.sign(digest, role)
    expected = signature_size(signer)
    if len(signature) != expected:
        raise FormatError(
            f"{role.value} signature: expected {expected} bytes of {signer.scheme.value}, "
            f"found {len(signature)}"
        )
    return signature

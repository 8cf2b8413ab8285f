"""Open a package: verify it and give out its payload in clear, in one pass (specification, section 7).

Plaintext comes out before everything is checked, chunk by chunk, into ``sink``: what the sink got is worth
nothing until :func:`open_package` returns, and must be thrown away if it raises.
The steps are numbered as in the specification; all that needs no payload byte is checked before the first.

Example::

    with open(path, "rb") as file:
        opened = open_package(
            file, size, class_key=store.get, trust=trust, at=now, requirements=Requirements(), sink=out.write
        )
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, cast

from shared.cpk.digests import PackageDigests
from shared.cpk.encryption import Opener, PayloadNonce, start_opening
from shared.cpk.frame import read_at
from shared.cpk.package import Package, inspect_package
from shared.cpk.pipeline import BLOCK, Reader, copy_blocks
from shared.cpk.schemes import AesGcm, AesGcmStream, ChaCha20Poly1305, Encryption
from shared.cpk.trust import Trust, TrustedSigner
from shared.cpk.verifying import (
    Requirements,
    check_package,
    check_payload,
    check_requirements,
    check_signers,
)
from shared.errors import FormatError, KeyUnavailable, VerificationError
from shared.types import KeyName, Secret, parse_key_name

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime

    from shared.certificate_paths import TrustStore
    from shared.cpk.manifest import Manifest

__all__ = [
    "KeyReference",
    "OpenedPackage",
    "Package",
    "Requirements",
    "Trust",
    "inspect_package",
    "open_package",
    "start_decryption",
]

CHUNK = BLOCK
"""Most bytes of payload that the sink gets at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyReference:
    """Which class key a payload wants.

    Attributes:
        name: The class key's name.
        version: Its version; ``None`` where the package does not say.
        strength: Its length in bits.
    """

    name: KeyName
    version: int | None
    strength: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenedPackage:
    """A package of which everything held.

    Attributes:
        manifest: Its manifest.
        payload_size: Bytes that the sink got.
        payload_sha256: SHA-256 over them; ``None`` where the package wants another digest of its payload.
        signer: Who signed the payload; ``None`` only where the requirements let it be unsigned.
        package_signed: Whether a signature over the whole package held, too.
    """

    manifest: Manifest
    payload_size: int
    payload_sha256: bytes | None
    signer: TrustedSigner | None
    package_signed: bool


def open_package(
    file: BinaryIO,
    size: int,
    *,
    class_key: Callable[[KeyReference], Secret],
    trust: Trust | TrustStore,
    at: datetime,
    requirements: Requirements,
    sink: Callable[[memoryview], None],
    parallel: bool | None = None,
) -> OpenedPackage:
    """Verify a package and give its payload in clear to ``sink``.

    Args:
        file: The package, seekable; it may change underneath, what is verified is what was read.
        size: Its length in bytes.
        class_key: Finds a class key, or raises ``KeyUnavailable``. Asked at most once, after the certificate
            held.
        trust: Whose signatures are accepted: roots, and whatever else the caller trusts.
        at: The time to judge certificates at, aware.
        requirements: What the package must carry.
        sink: Takes the payload in chunks of at most 1 MiB, in order; each is valid during the call only and
            must not be written to. Its exceptions pass through.
        parallel: Whether digests run on threads of their own; by default for payloads of 4 MiB and more.

    Returns:
        What was verified. Only then may what the sink got be used.

    Raises:
        FormatError: The package is malformed, or the file became shorter.
        VerificationError: Something required is missing, or something does not hold; the code says what.
        KeyUnavailable: The class key is not there, or its name is no key name.
    """
    package = inspect_package(file, size)
    check_requirements(package, requirements)  # steps 1 and 2
    signers = check_signers(package, trust=Trust.of(trust), at=at, requirements=requirements)  # step 3
    opener = start_decryption(package, class_key)  # step 4
    digests = PackageDigests(package.manifest, size=package.stored_size, parallel=parallel)
    with contextlib.closing(digests):
        _stream(file, package, opener, digests, sink)  # step 5
        if opener is not None:
            opener.finish(_tag(package))  # step 6
        check_payload(package, signers, digests)  # step 7
        check_package(package, signers, digests)  # step 8
    return OpenedPackage(
        manifest=package.manifest,
        payload_size=package.payload_size,
        payload_sha256=digests.clear_sha256(),
        signer=signers.payload,
        package_signed=signers.package is not None,
    )


def start_decryption(package: Package, class_key: Callable[[KeyReference], Secret]) -> Opener | None:
    """Return what decrypts the payload; ``None`` if it is in clear.

    Args:
        package: From ``inspect_package``.
        class_key: As for :func:`open_package`.

    Raises:
        VerificationError: ``key_mismatch``; the key has another length than the manifest says.
        KeyUnavailable: The class key is not there, or its name is no key name.
    """
    scheme = package.manifest.payload.encryption
    if scheme is None:
        return None
    return start_opening(
        scheme,
        find_key(scheme, class_key),
        payload_nonce(package, scheme),
        payload_size=package.payload_size,
        manifest_sha256=hashlib.sha256(package.contents[package.frame.manifest_index]).digest(),
    )


def find_key(scheme: Encryption, class_key: Callable[[KeyReference], Secret]) -> Secret:
    """Return the class key of a scheme; errors as for :func:`start_decryption`."""
    try:
        name = parse_key_name(scheme.key_name, where="manifest /payload/enc: key_name")
    except FormatError as error:
        raise KeyUnavailable(str(error)) from error
    key = class_key(KeyReference(name=name, version=scheme.key_version, strength=scheme.key_strength))
    if len(key) * 8 != scheme.key_strength:
        raise VerificationError(
            f"class key {scheme.key_name}: expected {scheme.key_strength} bits as the manifest says, "
            f"found {len(key) * 8}",
            code="key_mismatch",
        )
    return key


def payload_nonce(package: Package, scheme: Encryption) -> PayloadNonce:
    """Return the streams that make the payload's encryption its own."""
    match scheme:
        case AesGcm(nonce=nonce) | ChaCha20Poly1305(nonce=nonce):
            return PayloadNonce(nonce=package.contents[nonce])
        case AesGcmStream(salt=salt, prefix=prefix):
            return PayloadNonce(salt=package.contents[salt], prefix=package.contents[prefix])


def _tag(package: Package) -> bytes:
    match package.manifest.payload.encryption:
        case AesGcm(tag=tag) | ChaCha20Poly1305(tag=tag):
            return package.contents[tag]
        case _:
            return b""


def _stream(
    file: BinaryIO,
    package: Package,
    opener: Opener | None,
    digests: PackageDigests,
    sink: Callable[[memoryview], None],
) -> None:
    """Read, decrypt, digest and give out the payload; the mapped streams are digested in the map's order."""
    payload = package.manifest.payload.data
    mapped: Sequence[int] = package.manifest.package.map if digests.covers_package else (payload,)
    place = mapped.index(payload)  # there: the map is complete since step 2
    _digest_streams(file, package, mapped[:place], digests)
    start, size = package.frame.file_offset(payload), package.stored_size

    def ended_early(found: int) -> FormatError:
        return FormatError(
            f"payload at offset {start}: expected {size} bytes, the file ends after {found} of them"
        )

    file.seek(start)
    copy_blocks(
        cast("Reader", file),
        size,
        sink=lambda chunk: sink(chunk.toreadonly()),
        ended_early=ended_early,
        before=digests.stored,
        transform=opener,
        after=digests.clear,
        block=opener.block if opener is not None else BLOCK,
        growth=opener.growth if opener is not None else 0,
    )
    digests.end_payload()
    _digest_streams(file, package, mapped[place + 1 :], digests)


def _digest_streams(
    file: BinaryIO, package: Package, indices: Sequence[int], digests: PackageDigests
) -> None:
    """Add streams as they were read at inspection; what the manifest does not name is read now."""
    for index in indices:
        if index in package.contents:
            digests.add_mapped(package.contents[index])
            continue
        start, length = package.frame.file_offset(index), package.frame.streams[index].size
        for done in range(0, length, BLOCK):
            part = read_at(file, start + done, min(BLOCK, length - done), what=f"stream {index}")
            digests.add_mapped(part)

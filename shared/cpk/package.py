"""A package as a whole: the frame, the manifest, and what one says about the other (specification 6).

Every stream but the payload is small; it is read once, here, and kept. What was parsed is therefore what is
verified and signed over later, even if somebody writes to the file in between.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

from shared.certificates import load_certificates
from shared.cpk.frame import Frame, read_at, read_frame, table_entry
from shared.cpk.manifest import MAX_MANIFEST, Manifest, PackageSection, Payload, Role, parse_manifest
from shared.cpk.schemes import (
    MAX_SEGMENTS,
    NONCE_SIZE,
    PREFIX_SIZE,
    SALT_SIZE,
    TAG_SIZE,
    AesGcmStream,
    EmbeddedCertificate,
    EmbeddedPublicKey,
    Encoding,
)
from shared.cpk.signing_keys import VerificationKey, load_embedded_key
from shared.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography import x509

MAX_CERTIFICATES = 64 << 10
"""Largest stream of embedded certificates, in bytes."""

_CERTIFICATE_ROLES = {Role.CERTIFICATE, Role.PACKAGE_CERTIFICATE}
_OWN_ROLES = {Role.PACKAGE_DIGEST, Role.PACKAGE_SIGNATURE}


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A well-formed package; whether to trust it is decided elsewhere.

    Attributes:
        size: Bytes of the file.
        frame: Its checked frame.
        manifest: Its checked manifest.
        contents: Stream index to bytes, for every stream that the manifest names except the payload.
        certificates: Stream index to embedded certificates, leaf first.
        public_keys: Stream index to embedded bare public key.
        uncovered: Streams that a package digest or signature ought to cover and does not; such a package is
            never accepted.
        warnings: What a reader should know, one line each.
    """

    size: int
    frame: Frame
    manifest: Manifest
    contents: Mapping[int, bytes]
    certificates: Mapping[int, tuple[x509.Certificate, ...]]
    public_keys: Mapping[int, VerificationKey]
    uncovered: tuple[int, ...]
    warnings: tuple[str, ...]

    @property
    def stored_size(self) -> int:
        """Bytes of the payload's stream; with the tags of its segments, if it has any."""
        return self.frame.streams[self.manifest.payload.data].size

    @property
    def payload_size(self) -> int:
        """Bytes of the payload in clear."""
        encryption = self.manifest.payload.encryption
        if not isinstance(encryption, AesGcmStream):
            return self.stored_size
        whole = encryption.segment_size + TAG_SIZE
        return self.stored_size - TAG_SIZE * -(-self.stored_size // whole)

    def roles_of(self, index: int) -> tuple[Role, ...]:
        """Return what the stream is used for; empty if nothing names it."""
        named = ((Role.MANIFEST, self.frame.manifest_index), *self.manifest.roles())
        return tuple(role for role, stream in named if stream == index)


def inspect_package(file: BinaryIO, size: int) -> Package:
    """Read a package's frame, manifest and small streams, and check all that needs no key and no trust.

    Args:
        file: The package, seekable; its position afterwards is undefined.
        size: Its length in bytes.

    Raises:
        FormatError: The package is malformed; nothing else is raised for any bytes.
    """
    frame = read_frame(file, size)
    data = _read_manifest(file, frame)
    manifest = _parse_manifest(data, frame)
    _check_roles(manifest, frame.manifest_index)
    _check_sizes(manifest, frame)
    contents = {frame.manifest_index: data}
    for role, index in manifest.roles():
        if role is not Role.PAYLOAD and index not in contents:
            contents[index] = read_at(
                file,
                frame.file_offset(index),
                frame.streams[index].size,
                what=f"stream {index} ({role.value})",
            )
    certificates, public_keys = _load_certification(manifest, frame, contents)
    uncovered = _uncovered(manifest, frame.manifest_index)
    return Package(
        size=size,
        frame=frame,
        manifest=manifest,
        contents=contents,
        certificates=certificates,
        public_keys=public_keys,
        uncovered=uncovered,
        warnings=tuple(_warnings(size, frame, manifest, uncovered)),
    )


def _read_manifest(file: BinaryIO, frame: Frame) -> bytes:
    stream = frame.streams[frame.manifest_index]
    if not 0 < stream.size <= MAX_MANIFEST:
        raise FormatError(
            f"stream {stream.index} (manifest), {table_entry(stream.index)}: "
            f"expected 1 to {MAX_MANIFEST} bytes, found {stream.size}"
        )
    return read_at(file, frame.file_offset(stream.index), stream.size, what="manifest")


def _parse_manifest(data: bytes, frame: Frame) -> Manifest:
    """Read the manifest; what is wrong in it is told with where in the file it stands."""
    try:
        manifest = parse_manifest(data, stream_count=len(frame.streams))
        _check_signed_sections(manifest)
        _check_map(manifest)
        _check_layout(manifest.package, frame)
    except FormatError as error:
        index = frame.manifest_index
        where = f"the manifest is stream {index} at offset {frame.file_offset(index)}"
        raise FormatError(f"{error} ({where})") from error
    return manifest


def _check_signed_sections(manifest: Manifest) -> None:
    for name, section in (("payload", manifest.payload), ("package", manifest.package)):
        if section.signature is not None and section.certification is None:
            raise FormatError(
                f'manifest /{name}/cert: expected a certificate for the signature, found "none"'
            )


def _check_roles(manifest: Manifest, manifest_index: int) -> None:
    """Refuse a stream used for two things; payload and package may be signed under one certificate."""
    used = {manifest_index: Role.MANIFEST}
    for role, index in manifest.roles():
        earlier = used.setdefault(index, role)
        if earlier is not role and {earlier, role} != _CERTIFICATE_ROLES:
            raise FormatError(
                f"stream {index}, {table_entry(index)}: "
                f"expected one use, found it named as {earlier.value} and as {role.value}"
            )
    if (
        isinstance(payload := manifest.payload.certification, EmbeddedCertificate | EmbeddedPublicKey)
        and isinstance(package := manifest.package.certification, EmbeddedCertificate | EmbeddedPublicKey)
        and payload.data == package.data
        and payload != package
    ):
        raise FormatError(
            f"stream {payload.data}, {table_entry(payload.data)}: "
            f"expected one encoding, found payload and package to disagree about it"
        )


def _check_sizes(manifest: Manifest, frame: Frame) -> None:
    """Hold every stream to the length that its scheme fixes: bytes cannot move between neighbours."""
    payload, package = manifest.payload, manifest.package
    fixed = {
        Role.NONCE: NONCE_SIZE,
        Role.TAG: TAG_SIZE,
        Role.SALT: SALT_SIZE,
        Role.PREFIX: PREFIX_SIZE,
        Role.DIGEST: payload.digest.algorithm.size if payload.digest is not None else 0,
        Role.PACKAGE_DIGEST: package.digest.algorithm.size if package.digest is not None else 0,
        Role.SIGNATURE: payload.signature.size if payload.signature is not None else 0,
        Role.PACKAGE_SIGNATURE: package.signature.size if package.signature is not None else 0,
    }
    for role, index in manifest.roles():
        if role is Role.PAYLOAD:
            low, high = _payload_bounds(payload)
        elif role in _CERTIFICATE_ROLES:
            low, high = 1, MAX_CERTIFICATES
        else:
            low = high = fixed[role]
        found = frame.streams[index].size
        if not low <= found <= high:
            expected = str(low) if low == high else f"{low} to {high}"
            raise FormatError(
                f"stream {index} ({role.value}), {table_entry(index)}: "
                f"expected {expected} bytes, found {found}"
            )
    if isinstance(payload.encryption, AesGcmStream):
        _check_last_segment(payload.encryption, frame.streams[payload.data].size, payload.data)


def _payload_bounds(payload: Payload) -> tuple[int, int]:
    """Return the fewest and the most bytes of the payload's stream."""
    match payload.encryption:
        case None:
            return 1, 2**63 - 1
        case AesGcmStream(segment_size=segment_size):
            return 1 + TAG_SIZE, MAX_SEGMENTS * (segment_size + TAG_SIZE)
        case single:
            return 1, single.max_payload


def _check_last_segment(scheme: AesGcmStream, stored: int, index: int) -> None:
    """Refuse a last segment without a byte of payload: no payload is written in two ways."""
    whole = scheme.segment_size + TAG_SIZE
    last = stored % whole
    if 0 < last <= TAG_SIZE:
        raise FormatError(
            f"stream {index} (payload), {table_entry(index)}: expected a last segment of at least "
            f"{TAG_SIZE + 1} bytes after {stored // whole} of {whole}, found {last}"
        )


def _check_map(manifest: Manifest) -> None:
    """Refuse a map that holds the package's own digest or signature: it could never be computed."""
    for role, index in manifest.roles():
        if role in _OWN_ROLES and index in manifest.package.map:
            place = manifest.package.map.index(index)
            raise FormatError(
                f"manifest /package/map/{place}: expected no {role.value} in its own map, "
                f"found stream {index}"
            )


def _check_layout(section: PackageSection, frame: Frame) -> None:
    for index, size in (section.layout or {}).items():
        if size != frame.streams[index].size:
            raise FormatError(
                f"manifest /package/layout/{index}: expected the stream table's size "
                f"{frame.streams[index].size}, found {size}"
            )


def _load_certification(
    manifest: Manifest, frame: Frame, contents: Mapping[int, bytes]
) -> tuple[dict[int, tuple[x509.Certificate, ...]], dict[int, VerificationKey]]:
    certificates: dict[int, tuple[x509.Certificate, ...]] = {}
    public_keys: dict[int, VerificationKey] = {}
    for scheme in (manifest.payload.certification, manifest.package.certification):
        if isinstance(scheme, EmbeddedCertificate):
            where = f"stream {scheme.data} (certificate) at offset {frame.file_offset(scheme.data)}"
            _check_encoding(contents[scheme.data], scheme.encoding, where)
            certificates[scheme.data] = load_certificates(contents[scheme.data], where=where)
        elif isinstance(scheme, EmbeddedPublicKey):
            where = f"stream {scheme.data} (public key) at offset {frame.file_offset(scheme.data)}"
            public_keys[scheme.data] = load_embedded_key(contents[scheme.data], scheme.encoding, where=where)
    return certificates, public_keys


def _check_encoding(data: bytes, encoding: Encoding, where: str) -> None:
    found = Encoding.PEM if b"-----BEGIN " in data else Encoding.DER
    if found is not encoding:
        raise FormatError(f"{where}: expected {encoding.name}, found {found.name}")


def _uncovered(manifest: Manifest, manifest_index: int) -> tuple[int, ...]:
    """Return the streams that a package digest or signature leaves out though the manifest relies on them."""
    if manifest.package.digest is None and manifest.package.signature is None:
        return ()
    wanted = {manifest_index, *(index for role, index in manifest.roles() if role not in _OWN_ROLES)}
    return tuple(sorted(wanted - set(manifest.package.map)))


def _warnings(size: int, frame: Frame, manifest: Manifest, uncovered: tuple[int, ...]) -> list[str]:
    warnings = []
    if size > frame.end:
        warnings.append(f"{size - frame.end} bytes after the last stream belong to nothing")
    for name, section in (("payload", manifest.payload), ("package", manifest.package)):
        if section.certification is not None and section.signature is None:
            warnings.append(f"the {name} has a certificate and no signature")
    if manifest.payload.encryption is None:
        warnings.append("the payload is not encrypted")
    if manifest.payload.signature is None:
        warnings.append("the payload is not signed")
    if uncovered:
        missing = ", ".join(map(str, uncovered))
        warnings.append(f"the package digest or signature leaves out streams {missing}: it will be refused")
    named = {frame.manifest_index, *(index for _, index in manifest.roles())}
    if unused := [str(stream.index) for stream in frame.streams if stream.index not in named]:
        warnings.append(f"nothing names streams {', '.join(unused)}")
    return warnings

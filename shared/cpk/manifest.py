"""The manifest: the JSON document that says what every stream is for (specification, section 4).

Parsing is strict where the reference parser is strict: field names exactly as written, integers that are
integers, one value a name; unknown fields are ignored. What the manifest says about the *streams* (sizes,
roles) is checked in :mod:`shared.cpk.package`.
"""

from __future__ import annotations

import enum
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING

from shared import strict_json
from shared.cpk.fields import Fields, checked_integer, refused, stream_index
from shared.cpk.scheme_json import (
    encode_scheme,
    parse_certification,
    parse_digest,
    parse_encryption,
    parse_signing,
)
from shared.cpk.schemes import (
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
from shared.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Mapping

MAX_MANIFEST = 1 << 20
"""Largest manifest that is read, in bytes."""

# chrono writes a space and " UTC"; RFC 3339 a "T" and an offset. The fraction has up to nine digits.
_DATE = re.compile(
    r"(?P<date>\d{4}-\d\d-\d\d)[Tt ](?P<time>\d\d:\d\d:\d\d)(?:\.(?P<fraction>\d{1,9}))?"
    r"(?P<zone> UTC|[Zz]|[+-]\d\d:?\d\d)",
    re.ASCII,
)
_CANONICAL_INDEX = re.compile(r"0|[1-9][0-9]{0,4}", re.ASCII)


class Role(enum.Enum):
    """What the manifest uses a stream for."""

    MANIFEST = "manifest"
    PAYLOAD = "payload"
    NONCE = "nonce"
    TAG = "tag"
    SALT = "salt"
    PREFIX = "nonce prefix"
    DIGEST = "digest"
    SIGNATURE = "signature"
    CERTIFICATE = "certificate"
    PACKAGE_DIGEST = "package digest"
    PACKAGE_SIGNATURE = "package signature"
    PACKAGE_CERTIFICATE = "package certificate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The machine that the payload was built for; for information."""

    arch: str
    os: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """The payload's version, three u32 numbers, and when it was built (in UTC)."""

    major: int
    minor: int
    revision: int
    date: datetime

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}.{self.revision}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """The ``payload`` section; ``None`` for a scheme stands for ``"none"``.

    Digest and signature are over the payload in clear, unless the digest says that both are over the
    ciphertext.
    """

    data: int
    target: Target
    version: Version
    encryption: Encryption | None
    digest: Digest | None
    signature: Signature | None
    certification: Certification | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PackageSection:
    """The ``package`` section: digest and signature over the streams of ``map``, in its order.

    Attributes:
        map: Stream indices, no duplicates.
        digest: Digest over the mapped streams' bytes as they lie in the file.
        signature: Signature over the same bytes.
        certification: Who made the signature.
        layout: Extension: stream index to size in bytes, so that a signature over the manifest fixes where
            each stream ends; ``None`` where the manifest has none.
    """

    map: tuple[int, ...]
    digest: Digest | None
    signature: Signature | None
    certification: Certification | None
    layout: Mapping[int, int] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """A parsed manifest, its field names spelt out (``cp-id`` is ``id``)."""

    id: str
    name: str
    vendor: str
    payload: Payload
    package: PackageSection

    def roles(self) -> tuple[tuple[Role, int], ...]:
        """Return every stream the manifest names, with what it is for; a stream may stand twice."""
        payload, package = self.payload, self.package
        named = [(Role.PAYLOAD, payload.data)]
        match payload.encryption:
            case AesGcmStream(salt=salt, prefix=prefix):
                named += [(Role.SALT, salt), (Role.PREFIX, prefix)]
            case AesGcm(nonce=nonce, tag=tag) | ChaCha20Poly1305(nonce=nonce, tag=tag):
                named += [(Role.NONCE, nonce), (Role.TAG, tag)]
        for section, digest, signature, certificate in (
            (payload, Role.DIGEST, Role.SIGNATURE, Role.CERTIFICATE),
            (package, Role.PACKAGE_DIGEST, Role.PACKAGE_SIGNATURE, Role.PACKAGE_CERTIFICATE),
        ):
            if section.digest is not None:
                named.append((digest, section.digest.data))
            if section.signature is not None:
                named.append((signature, section.signature.data))
            if isinstance(section.certification, EmbeddedCertificate | EmbeddedPublicKey):
                named.append((certificate, section.certification.data))
        return tuple(named)


def parse_manifest(data: bytes, *, stream_count: int) -> Manifest:
    """Read a manifest.

    Args:
        data: The manifest stream's bytes.
        stream_count: How many streams the frame has; indices must name one of them.

    Raises:
        FormatError: The bytes are not strict JSON or the document breaks the specification, section 4; the
            message holds the JSON pointer, what was expected and what was found.
    """
    document = strict_json.loads(data, where="manifest")
    root = Fields.of(document, pointer="", stream_count=stream_count)
    return Manifest(
        id=root.identifier("cp-id"),
        name=root.text("cp-name"),
        vendor=root.text("cp-vendor"),
        payload=_parse_payload(root.child("payload")),
        package=_parse_package(root.child("package")),
    )


def encode_manifest(manifest: Manifest) -> bytes:
    """Return the manifest as compact UTF-8 JSON, its fields in the reference tool's order."""
    payload, package = manifest.payload, manifest.package
    section: dict[str, object] = {"map": list(package.map)}
    if package.layout is not None:
        section["layout"] = {str(index): size for index, size in package.layout.items()}
    document = {
        "cp-id": manifest.id,
        "cp-name": manifest.name,
        "cp-vendor": manifest.vendor,
        "payload": {
            "data": payload.data,
            "target": {"arch": payload.target.arch, "os": payload.target.os},
            "ver": {
                "maj": payload.version.major,
                "min": payload.version.minor,
                "rev": payload.version.revision,
                "date": format_date(payload.version.date),
            },
            "enc": encode_scheme(payload.encryption),
            **_encode_schemes(payload),
        },
        "package": {**section, **_encode_schemes(package)},
    }
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode()


def parse_date(text: str, *, pointer: str) -> datetime:
    """Return a build date in UTC, at most microseconds kept.

    Read are ``2026-10-05 12:52:37.489525 UTC`` as the reference tool writes it, and RFC 3339.

    Raises:
        FormatError: It is neither, or no such day or time exists.
    """
    match = _DATE.fullmatch(text)
    expected = "a date such as 2026-10-05 12:52:37.489525 UTC or 2026-10-05T12:52:37Z"
    if match is None:
        raise refused(pointer, expected, text)
    try:
        date = datetime.fromisoformat(f"{match['date']}T{match['time']}").replace(tzinfo=_zone(match["zone"]))
        micros = int((match["fraction"] or "").ljust(9, "0")[:6])
        return (date + timedelta(microseconds=micros)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise refused(pointer, expected, text) from error


def format_date(date: datetime) -> str:
    """Return a date as the reference tool writes it, with six digits after the second."""
    return f"{date.astimezone(UTC):%Y-%m-%d %H:%M:%S.%f} UTC"


def _zone(text: str) -> timezone:
    if text in {" UTC", "Z", "z"}:
        return UTC
    hours, minutes = int(text[1:3]), int(text[-2:])
    if minutes > 59:  # noqa: PLR2004 - RFC 3339's time-minute
        raise ValueError(text)
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if text[0] == "-" else offset)


def _parse_payload(fields: Fields) -> Payload:
    target = fields.child("target")
    return Payload(
        data=fields.stream("data"),
        target=Target(arch=target.text("arch"), os=target.text("os")),
        version=_parse_version(fields.child("ver")),
        encryption=parse_encryption(fields, "enc"),
        digest=parse_digest(fields, "dig", of_payload=True),
        signature=parse_signing(fields, "sig"),
        certification=parse_certification(fields, "cert"),
    )


def _parse_version(fields: Fields) -> Version:
    return Version(
        major=fields.integer("maj"),
        minor=fields.integer("min"),
        revision=fields.integer("rev"),
        date=parse_date(fields.text("date"), pointer=fields.at("date")),
    )


def _parse_package(fields: Fields) -> PackageSection:
    return PackageSection(
        map=_parse_map(fields),
        digest=parse_digest(fields, "dig", of_payload=False),
        signature=parse_signing(fields, "sig"),
        certification=parse_certification(fields, "cert"),
        layout=_parse_layout(fields),
    )


def _parse_map(fields: Fields) -> tuple[int, ...]:
    values = fields.value("map")
    pointer = fields.at("map")
    if not isinstance(values, list):
        raise refused(pointer, "an array of stream indices", values)
    seen: dict[int, int] = {}
    for place, value in enumerate(values):
        index = stream_index(value, pointer=f"{pointer}/{place}", stream_count=fields.stream_count)
        if index in seen:
            raise FormatError(
                f"manifest {pointer}/{place}: expected each stream once, "
                f"found {index} already at {seen[index]}"
            )
        seen[index] = place
    return tuple(seen)


def _parse_layout(fields: Fields) -> Mapping[int, int] | None:
    if "layout" not in fields.values:
        return None
    inner = fields.child("layout")
    layout: dict[int, int] = {}
    for name, size in inner.values.items():
        value = int(name) if _CANONICAL_INDEX.fullmatch(name) else name
        index = stream_index(value, pointer=inner.at(name), stream_count=fields.stream_count)
        layout[index] = checked_integer(size, pointer=inner.at(name), low=0, high=2**63 - 1)
    return layout


def _encode_schemes(section: Payload | PackageSection) -> dict[str, object]:
    return {
        "dig": encode_scheme(section.digest),
        "sig": encode_scheme(section.signature),
        "cert": encode_scheme(section.certification),
    }

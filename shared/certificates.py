"""X.509 certificates from hostile hands: loaded strictly, down to their extensions, and whom they name.

Nothing that is read from one is worth anything before its path is validated
(:mod:`shared.certificate_paths`).

Example:
    >>> chain = load_certificates(pem, where="device_cert")
    >>> device_id_of(chain[0])
    'edge-01'
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from shared.errors import FormatError
from shared.types import parse_device_id

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_CERTIFICATES = 8
"""Most certificates in one presented chain."""

MAX_CHAIN_BYTES = 64 * 1024
"""Longest presented chain, in bytes, PEM or DER."""

_DEVICE_URN = "urn:cpk:device:"
_BUILD_URN = "urn:cpk:build:"
_BUILD_NAME = re.compile(r"[\x21-\x7e]{1,128}")

# What the library raises for certificates that are malformed, or hold what it does not know; its own value
# types raise TypeError for a name's BIT STRING under an attribute that has none.
_PARSER_ERRORS = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)

_DER_SEQUENCE = 0x30
_DER_LONG_FORM = 0x80


def load_certificates(
    data: bytes, *, where: str, most: int = MAX_CERTIFICATES, most_bytes: int = MAX_CHAIN_BYTES
) -> tuple[x509.Certificate, ...]:
    """Load certificates: a chain of 1 to 8, leaf first, unless told otherwise.

    Args:
        data: PEM blocks, or DER certificates one after the other without anything between or after them.
        where: What is being read, for the message.
        most: How many there may be.
        most_bytes: How long ``data`` may be.

    Raises:
        FormatError: Too long, too many, none, or one that is no X.509 certificate down to its extensions.
    """
    if len(data) > most_bytes:
        raise FormatError(f"{where}: expected certificates of at most {most_bytes} bytes, found {len(data)}")
    # A certificate is longer than 127 bytes, so DER's second byte is never text.
    is_der = len(data) > 1 and data[0] == _DER_SEQUENCE and data[1] > _DER_LONG_FORM
    blocks = _split_der(data, where=where) if is_der else _split_pem(data, where=where)
    if not 1 <= len(blocks) <= most:
        raise FormatError(f"{where}: expected 1 to {most} certificates, found {len(blocks)}")
    for number, certificate in enumerate(blocks):
        _parse_fully(certificate, where=f"{where}: certificate {number}")
    return tuple(blocks)


def _split_pem(data: bytes, *, where: str) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(data)
    except _PARSER_ERRORS as error:
        raise FormatError(f"{where}: expected PEM or DER certificates, found something else") from error


def _split_der(data: bytes, *, where: str) -> list[x509.Certificate]:
    """Cut concatenated DER at the length of each outer SEQUENCE (X.690 section 8.1.3)."""
    found = []
    offset = 0
    while offset < len(data):
        head = data[offset : offset + 2]
        digits = head[1] & 0x7F if len(head) == 2 and head[1] > _DER_LONG_FORM else 0  # noqa: PLR2004 - tag, length
        body = offset + 2 + digits
        end = body + int.from_bytes(data[offset + 2 : body], "big")
        if not digits or head[0] != _DER_SEQUENCE or end > len(data):
            raise FormatError(f"{where}: expected a DER certificate at byte {offset}")
        try:
            found.append(_load_der(data[offset:end]))
        except _PARSER_ERRORS as error:
            raise FormatError(f"{where}: no X.509 certificate at byte {offset}") from error
        offset = end
    return found


@functools.lru_cache(maxsize=64)
def _load_der(der: bytes) -> x509.Certificate:
    """Load a certificate; a fleet's devices all show the same issuers, which are parsed once."""
    return x509.load_der_x509_certificate(der)


def _parse_fully(certificate: x509.Certificate, *, where: str) -> None:
    """Make the lazy parser read the parts that are used later, so that nothing fails after this."""
    try:
        _ = (certificate.version, certificate.subject, certificate.issuer, certificate.extensions)
        _ = (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
        certificate.public_key()
    except _PARSER_ERRORS as error:
        raise FormatError(
            f"{where}: a field of the certificate is malformed or of an unknown kind"
        ) from error


def changes_of(chain: Sequence[x509.Certificate]) -> list[int]:
    """Return the moments at which time alone changes what a chain is worth, Unix seconds.

    Args:
        chain: As presented, validated or not.
    """
    return [
        int(time.timestamp()) + after
        for certificate in chain
        # A certificate is valid to the end of its last second.
        for time, after in ((certificate.not_valid_before_utc, 0), (certificate.not_valid_after_utc, 1))
    ]


def leaf_public_key(certificate: x509.Certificate) -> bytes:
    """Return a certificate's key as DER SubjectPublicKeyInfo; ``load_public_key`` checks it."""
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def device_id_of(certificate: x509.Certificate) -> str | None:
    """Return the device that a certificate names, or None (protocol section 7).

    It is the one SAN URI ``urn:cpk:device:<id>``, taken literally; only a certificate without any SAN may
    name the device in its subject's one CN. Several such URIs name nobody. The answer is worth nothing
    before the path is validated.
    """
    uris = san_uris(certificate)
    if uris is not None:
        names = [uri.removeprefix(_DEVICE_URN) for uri in uris if uri.startswith(_DEVICE_URN)]
    else:
        names = [str(part.value) for part in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    if len(names) != 1:
        return None
    try:
        return parse_device_id(names[0], where="certificate")
    except FormatError:
        return None


def build_name_of(certificate: x509.Certificate) -> str | None:
    """Return the build machine named in the one SAN URI ``urn:cpk:build:<name>``, or None."""
    names = [
        uri.removeprefix(_BUILD_URN) for uri in san_uris(certificate) or () if uri.startswith(_BUILD_URN)
    ]
    return names[0] if len(names) == 1 and _BUILD_NAME.fullmatch(names[0]) else None


def san_uris(certificate: x509.Certificate) -> list[str] | None:
    """Return the URIs of the subjectAltName extension, or None if there is no such extension."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    return names.get_values_for_type(x509.UniformResourceIdentifier)

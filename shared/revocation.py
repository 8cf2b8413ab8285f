"""Revocation lists: parsed strictly, believed only under their issuer's signature (RFC 5280 section 5).

Complete lists alone are read: a delta, an indirect or a partitioned list says less than it seems to, and is
refused when it is loaded, as is one that never ends. Serials are gathered once, so that a list of a hundred
thousand costs a look into a set for each certificate; its signature is checked once for each issuer's key.
"""

from __future__ import annotations

import enum
import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from shared.errors import FormatError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

MAX_CRL_BYTES = 16 * 1024 * 1024
"""Longest file of revocation lists: some 400,000 entries."""

MAX_CRLS = 64
"""Most lists in one file."""

_PEM_BEGIN = b"-----BEGIN X509 CRL-----"
_PEM_END = b"-----END X509 CRL-----"
_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_PARSER_ERRORS = (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension)

# Extensions that leave a list complete; any other critical one, or one that narrows its scope, does not.
_HARMLESS = (x509.AuthorityKeyIdentifier, x509.CRLNumber, x509.FreshestCRL, x509.IssuerAlternativeName)


class Revocation(enum.Enum):
    """What revocation lists say of a certificate."""

    GOOD = "good"
    REVOKED = "revoked"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RevocationList:
    """One list, parsed; nothing in it holds before its signature does.

    Args:
        issuer: Who it says issued it.
        this_update: When it was issued, aware.
        next_update: When the next one is due, and this one is stale, aware.
        serials: Serial numbers that it revokes.
        serials_sha256: Over them in order, 32 bytes; lists that revoke the same have the same.
        signed: The parsed list, for its signature.
        believed: DER of the issuer keys under which its signature was found to hold.
    """

    issuer: x509.Name
    this_update: datetime
    next_update: datetime
    serials: frozenset[int]
    serials_sha256: bytes
    signed: x509.CertificateRevocationList = field(repr=False)
    believed: set[bytes] = field(default_factory=set, repr=False)

    def is_signed_by(self, issuer: x509.Certificate) -> bool:
        """Say whether a certificate's key signed the list, and may sign lists; a yes is remembered."""
        key = issuer.public_key()
        if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
            return False
        try:
            usage = issuer.extensions.get_extension_for_class(x509.KeyUsage).value
        except x509.ExtensionNotFound:
            usage = None
        if usage is not None and not usage.crl_sign:
            return False
        spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if spki not in self.believed:
            if not self.signed.is_signature_valid(key):
                return False
            self.believed.add(spki)
        return True


def load_revocation_lists(data: bytes, *, where: str) -> tuple[RevocationList, ...]:
    """Load 1 to 64 lists from PEM, or one from DER.

    Args:
        data: The file.
        where: What is being read, for the message.

    Raises:
        FormatError: Too long, too many, none, or one that is not a complete list with an end.
    """
    if len(data) > MAX_CRL_BYTES:
        raise FormatError(f"{where}: expected at most {MAX_CRL_BYTES} bytes, found more")
    blocks = _split_pem(data) if _PEM_BEGIN in data else [data]
    if not 1 <= len(blocks) <= MAX_CRLS:
        raise FormatError(f"{where}: expected 1 to {MAX_CRLS} revocation lists, found {len(blocks)}")
    return tuple(_load(block, where=f"{where}: list {number}") for number, block in enumerate(blocks))


def _split_pem(data: bytes) -> list[bytes]:
    return [_PEM_BEGIN + block.partition(_PEM_END)[0] + _PEM_END for block in data.split(_PEM_BEGIN)[1:]]


def _load(block: bytes, *, where: str) -> RevocationList:
    try:
        is_pem = block.startswith(_PEM_BEGIN)
        signed = x509.load_pem_x509_crl(block + b"\n") if is_pem else x509.load_der_x509_crl(block)
        problem = _problem(signed)
        serials = frozenset(entry.serial_number for entry in signed) if problem is None else frozenset()
        this_update, next_update = signed.last_update_utc, signed.next_update_utc
    except _PARSER_ERRORS as error:
        raise FormatError(f"{where}: expected a PEM or DER certificate revocation list") from error
    if problem is not None or next_update is None:
        raise FormatError(f"{where}: expected a complete list, found {problem or 'one without nextUpdate'}")
    return RevocationList(
        issuer=signed.issuer,
        this_update=this_update,
        next_update=next_update,
        serials=serials,
        serials_sha256=hashlib.sha256(repr(sorted(serials)).encode()).digest(),
        signed=signed,
    )


def _problem(signed: x509.CertificateRevocationList) -> str | None:
    """Say what keeps a list from being complete and sound, or None."""
    algorithm = signed.signature_hash_algorithm
    if algorithm is not None and not isinstance(algorithm, _HASHES):
        return f"one signed over {algorithm.name}"
    for extension in signed.extensions:
        if not isinstance(extension.value, _HARMLESS):
            return f"the extension {extension.oid.dotted_string}"
    for entry in signed:
        if any(extension.critical for extension in entry.extensions):
            return f"a critical extension of the entry of {entry.serial_number:x}"
    return None


def revocation_of(
    certificate: x509.Certificate,
    issuer: x509.Certificate,
    lists: Iterable[RevocationList],
    *,
    at: datetime,
) -> tuple[Revocation, str]:
    """Return what the lists of a certificate's issuer say of it, and why.

    Args:
        certificate: Whose path to ``issuer`` was validated.
        issuer: Its issuer's certificate.
        lists: All there are.
        at: Now, aware.

    Returns:
        Revoked if any list of the issuer says so, a stale one too; good if a current one does not; otherwise
        unknown.
    """
    own = [each for each in lists if each.issuer == certificate.issuer and each.is_signed_by(issuer)]
    if any(certificate.serial_number in each.serials for each in own):
        return Revocation.REVOKED, "its issuer revoked it"
    if any(each.this_update <= at <= each.next_update for each in own):
        return Revocation.GOOD, "its issuer's list does not name it"
    if not own:
        return Revocation.UNKNOWN, "there is no revocation list of its issuer"
    due = max(each.next_update for each in own)
    return (
        Revocation.UNKNOWN,
        f"its issuer's list is not current, the next was due on {due:%Y-%m-%d %H:%M:%SZ}",
    )

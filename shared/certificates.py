"""Public keys and X.509 certificates from hostile hands: loaded strictly, paths validated to pinned roots.

Keys (protocol section 3) are DER SubjectPublicKeyInfo in their one canonical encoding. Sizes and parameters
are checked before a key is used: an RSA key with a huge exponent costs its user 75 times a normal one.

Paths (protocol section 7, RFC 5280) go through :mod:`cryptography.x509.verification`. Neither a SAN nor an
extended key usage is demanded of the leaf, because a fleet's certificates name devices and not hosts; every
issuer must be a CA. Where revocation lists are configured, every issuer on the path must have a current one.
What is not checked here: whether the leaf's key is the one it came with.

Name constraints (RFC 5280 section 4.2.1.10) that the verifier does not evaluate refuse the path: a constraint
on URIs speaks of their hosts, and ``urn:cpk:…`` has none. A certificate that its issuers' constraints on URIs
or directory names would have to be held against does not slip past them by having no such name.

Example:
    >>> chain = load_certificates(pem, where="device_cert")
    >>> path = validate_path(chain, TrustStore.from_pem(roots, where="roots"), at=now)
    >>> device_id_of(path.leaf)
    'edge-01'
"""

from __future__ import annotations

import enum
import functools
import hashlib
import itertools
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key
from cryptography.x509 import verification
from cryptography.x509.oid import NameOID

from shared.errors import FormatError, VerificationError
from shared.revocation import Revocation, RevocationList, revocation_of
from shared.types import Fingerprint, parse_device_id

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

MAX_SPKI_BYTES = 550
"""The SubjectPublicKeyInfo of an RSA key of 4096 bits with e = 65537; no accepted key is longer."""

RSA_BITS = (2048, 3072, 4096)
"""The only RSA modulus lengths."""

RSA_EXPONENT = 65537
"""The only RSA public exponent."""

MAX_CERTIFICATES = 8
"""Most certificates in one presented chain."""

MAX_CHAIN_BYTES = 64 * 1024
"""Longest presented chain, in bytes, PEM or DER."""

MAX_INTERMEDIATES = 4
"""Most certificates between a leaf and its root."""

MAX_ROOTS = 64
"""Most certificates in one trust store."""

MAX_KNOWN_PATHS = 64
"""Most paths of issuers that a trust store remembers."""

MAX_TRUST_BYTES = 512 * 1024
"""Longest trust store file, in bytes."""

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

_ISSUER_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)
_DER_SEQUENCE = 0x30
_DER_LONG_FORM = 0x80

# Points of order 1, 2, 4 and 8 on Curve25519 and its twist: every secret shared with one of them is zero,
# which RFC 9180 section 7.1.4 refuses. They are refused when the key is loaded, before anything is wrapped.
_X25519_PRIME = 2**255 - 19
_X25519_LOW_ORDER = frozenset(
    {
        0,
        1,
        _X25519_PRIME - 1,
        325606250916557431795983626356110631294008115727848805560023387167927233504,
        39382357235489614581723060781553021112529911719440698176882885853963445705823,
    }
)


class KeyKind(enum.Enum):
    """The kinds of public key that a class key can be wrapped for."""

    RSA = "RSA"
    P256 = "P-256"
    X25519 = "X25519"


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """A checked public key.

    Args:
        spki: Its DER SubjectPublicKeyInfo, canonical.
        kind: What it can be used for.
        key: The loaded key; load once and use it for all that is wrapped for its owner.
    """

    spki: bytes
    kind: KeyKind
    key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | x25519.X25519PublicKey

    @property
    def fingerprint(self) -> Fingerprint:
        """SHA-256 over :attr:`spki`, 32 bytes (protocol section 1)."""
        return Fingerprint(hashlib.sha256(self.spki).digest())


def load_public_key(spki: bytes, *, where: str) -> PublicKey:
    """Load an RSA (2048, 3072 or 4096 bits, e = 65537), EC P-256 or X25519 public key (protocol section 3).

    Args:
        spki: DER SubjectPublicKeyInfo, canonical and to its last byte: named curve, uncompressed point.
        where: What is being read, for the message.

    Raises:
        FormatError: It is anything else.
    """
    if len(spki) > MAX_SPKI_BYTES:
        raise FormatError(
            f"{where}: expected a public key of at most {MAX_SPKI_BYTES} bytes, found {len(spki)}"
        )
    try:
        key = load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise FormatError(
            f"{where}: expected DER SubjectPublicKeyInfo, found {len(spki)} other bytes"
        ) from error
    match key:
        case rsa.RSAPublicKey():
            problem = _rsa_problem(key)
            loaded = PublicKey(spki=spki, kind=KeyKind.RSA, key=key)
        case ec.EllipticCurvePublicKey():
            problem = None if isinstance(key.curve, ec.SECP256R1) else f"an EC key on {key.curve.name}"
            loaded = PublicKey(spki=spki, kind=KeyKind.P256, key=key)
        case x25519.X25519PublicKey():
            problem = "an X25519 point of low order" if _is_low_order(key) else None
            loaded = PublicKey(spki=spki, kind=KeyKind.X25519, key=key)
        case _:
            raise FormatError(f"{where}: expected an RSA, EC P-256 or X25519 key, found another kind")
    if problem is not None:
        raise FormatError(
            f"{where}: expected RSA of 2048, 3072 or 4096 bits with e = 65537, EC P-256 or X25519; "
            f"found {problem}"
        )
    # One key, one encoding, one fingerprint: PKCS#1, compressed points and loose DER all end here.
    if key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != spki:
        raise FormatError(f"{where}: the public key is not in canonical DER SubjectPublicKeyInfo encoding")
    return loaded


def _rsa_problem(key: rsa.RSAPublicKey) -> str | None:
    """Say what is wrong with an RSA key, or None; looks at numbers only and uses the key for nothing."""
    if key.key_size not in RSA_BITS:
        return f"RSA of {key.key_size} bits"
    numbers = key.public_numbers()
    if numbers.e != RSA_EXPONENT:
        return f"RSA with an exponent of {numbers.e.bit_length()} bits that is not 65537"
    return "RSA with an even modulus" if numbers.n % 2 == 0 else None


def _is_low_order(key: x25519.X25519PublicKey) -> bool:
    masked = int.from_bytes(key.public_bytes_raw(), "little") & (2**255 - 1)  # RFC 7748 section 5
    return masked % _X25519_PRIME in _X25519_LOW_ORDER


def load_certificates(data: bytes, *, where: str) -> tuple[x509.Certificate, ...]:
    """Load a chain of 1 to 8 certificates, leaf first.

    Args:
        data: PEM blocks, or DER certificates one after the other without anything between or after them.
        where: What is being read, for the message.

    Raises:
        FormatError: Too long, too many, none, or one that is no X.509 certificate down to its extensions.
    """
    return _load(data, where=where, most=MAX_CERTIFICATES, most_bytes=MAX_CHAIN_BYTES)


def _load(data: bytes, *, where: str, most: int, most_bytes: int) -> tuple[x509.Certificate, ...]:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPath:
    """The path above a leaf that was validated, and how long it need not be again under another leaf.

    Args:
        issuers: The leaf's issuer and those above it, the root last; none of them constrains names.
        store: The leaf's issuer alone.
        since: When it was validated, aware.
        until: When one of the roots or of the intermediates that were shown begins or ceases to be valid.
    """

    issuers: tuple[x509.Certificate, ...]
    store: verification.Store
    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustStore:
    """The pinned roots.

    Args:
        roots: The certificates that end a path; a store without roots trusts nothing.
        revocations: Revocation lists. If there is any, every issuer on a path must have a current one.

    Attributes:
        known: The paths of issuers that were found to lead to a root, by the intermediates as presented.
    """

    roots: tuple[x509.Certificate, ...]
    revocations: tuple[RevocationList, ...] = ()
    known: dict[tuple[x509.Certificate, ...], KnownPath] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @classmethod
    def from_pem(cls, data: bytes, *, where: str) -> TrustStore:
        """Load 1 to 64 roots from PEM (or concatenated DER).

        Raises:
            FormatError: As for :func:`load_certificates`.
        """
        return cls(roots=_load(data, where=where, most=MAX_ROOTS, most_bytes=MAX_TRUST_BYTES))

    def digest(self, *, at: datetime) -> bytes:
        """Return a SHA-256 over all that decides whom this store trusts at a time, 32 bytes.

        It is the same for the same roots in any order, and for a revocation list that was issued again
        without a change.

        Args:
            at: Aware; tells which revocation lists are current.
        """
        roots = sorted(root.fingerprint(hashes.SHA256()) for root in self.roots)
        lists = sorted(
            (each.issuer.public_bytes(), each.this_update <= at <= each.next_update, each.serials_sha256)
            for each in self.revocations
        )
        return hashlib.sha256(repr((roots, lists)).encode()).digest()


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidatedPath:
    """A certificate whose path to a root has been validated.

    Args:
        leaf: The certificate that was presented first.
        root: The root of the trust store that its path ends in; the leaf itself if it is one.
    """

    leaf: x509.Certificate
    root: x509.Certificate

    @property
    def root_sha256(self) -> str:
        """SHA-256 over the root's DER, 64 lower-case hex digits."""
        return _sha256_of(self.root)


@functools.lru_cache(maxsize=MAX_ROOTS)
def _sha256_of(root: x509.Certificate) -> str:
    return root.fingerprint(hashes.SHA256()).hex()


def validate_path(chain: Sequence[x509.Certificate], trust: TrustStore, *, at: datetime) -> ValidatedPath:
    """Validate the path from ``chain[0]`` to a root of ``trust`` (RFC 5280 section 6).

    Args:
        chain: The leaf, then its intermediates; from :func:`load_certificates`.
        trust: The roots. A leaf that is itself a root is accepted while it is valid.
        at: The time to judge at, aware.

    Raises:
        VerificationError: ``certificate_expired`` or ``certificate_not_yet_valid`` if a presented certificate
            is that; ``certificate_revoked`` if an issuer on the path revoked what it issued;
            ``revocation_unknown`` if there are revocation lists and none of an issuer's is current;
            ``certificate_untrusted`` for everything else, SHA-1 signatures and weak keys included.
    """
    if not chain:
        raise _untrusted("no certificate was presented")
    leaf, intermediates = chain[0], tuple(chain[1:])
    path = _known_path(leaf, intermediates, trust, at) or _search_path(leaf, intermediates, trust, at)
    _check_revocation(path, trust, at)
    return ValidatedPath(leaf=leaf, root=path[-1])


def _known_path(
    leaf: x509.Certificate, intermediates: tuple[x509.Certificate, ...], trust: TrustStore, at: datetime
) -> tuple[x509.Certificate, ...] | None:
    """Return a leaf's path through issuers that were validated before, or None if that takes a search.

    The leaf is judged as in a search, with its issuer for a root. What is above it was found to hold with the
    same intermediates and roots, and none of these has begun or ceased to be valid since.
    """
    known = trust.known.get(intermediates)
    if known is None or not known.since <= at < known.until or leaf in trust.roots:
        return None
    _check_validity(leaf, at)
    _check_certificate_key(leaf)
    try:
        path = _verifier(known.store, at).verify(leaf, []).chain
    except verification.VerificationError:
        return None  # the search tells why; or another of the intermediates is its issuer, or a root
    return (leaf, *known.issuers) if len(path) == 2 else None  # noqa: PLR2004 - the leaf and its issuer


def _search_path(
    leaf: x509.Certificate, intermediates: tuple[x509.Certificate, ...], trust: TrustStore, at: datetime
) -> tuple[x509.Certificate, ...]:
    """Return a leaf's path to a root, and remember what is above the leaf."""
    for certificate in (leaf, *intermediates):
        _check_validity(certificate, at)
    if leaf in trust.roots:
        return (leaf,)
    for certificate in (leaf, *intermediates):
        _check_certificate_key(certificate)
    # Certificates of one subject let a presenter make the search for a path exponential.
    if len({certificate.subject for certificate in intermediates}) != len(intermediates):
        raise _untrusted("two intermediates have the same subject")
    if not trust.roots:
        raise _untrusted("the trust store is empty")
    try:
        path = _verifier(verification.Store(list(trust.roots)), at).verify(leaf, list(intermediates)).chain
    except verification.VerificationError as error:
        raise _untrusted(
            f"{_name(leaf)} has no valid path to a trusted root: {_first_line(error)}"
        ) from error
    _check_name_constraints(path)
    _remember(intermediates, path[1:], trust, at)
    return tuple(path)


def _remember(
    intermediates: tuple[x509.Certificate, ...],
    issuers: Sequence[x509.Certificate],
    trust: TrustStore,
    at: datetime,
) -> None:
    """Keep the path above a leaf; one with name constraints is not kept, for they speak of the leaf."""
    if any(isinstance(each.value, x509.NameConstraints) for issuer in issuers for each in issuer.extensions):
        return
    changes = [
        time
        for certificate in (*intermediates, *trust.roots)
        for time in (certificate.not_valid_before_utc, certificate.not_valid_after_utc)
        if time >= at
    ]
    if len(trust.known) >= MAX_KNOWN_PATHS:
        trust.known.clear()
    trust.known[intermediates] = KnownPath(
        issuers=tuple(issuers),
        store=verification.Store([issuers[0]]),
        since=at,
        until=min(changes, default=at),
    )


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


def _require_cert_sign(
    _policy: verification.Policy, _certificate: x509.Certificate, usage: x509.KeyUsage | None
) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("an issuer's key may not sign certificates")


_LEAF_POLICY = verification.ExtensionPolicy.permit_all()
# That the constraints say cA, and their path length, the verifier checks by itself.
_ISSUER_POLICY = (
    verification.ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, verification.Criticality.AGNOSTIC, None)
    .may_be_present(x509.KeyUsage, verification.Criticality.AGNOSTIC, _require_cert_sign)
)


def _verifier(roots: verification.Store, at: datetime) -> verification.ClientVerifier:
    return (
        verification.PolicyBuilder()
        .store(roots)
        .time(at)
        .max_chain_depth(MAX_INTERMEDIATES)
        .extension_policies(ca_policy=_ISSUER_POLICY, ee_policy=_LEAF_POLICY)
        .build_client_verifier()
    )


def _check_validity(certificate: x509.Certificate, at: datetime) -> None:
    if at > certificate.not_valid_after_utc:
        raise VerificationError(
            f"certificate {_name(certificate)} expired on {_utc(certificate.not_valid_after_utc)}",
            code="certificate_expired",
        )
    if at < certificate.not_valid_before_utc:
        raise VerificationError(
            f"certificate {_name(certificate)} is not valid before {_utc(certificate.not_valid_before_utc)}",
            code="certificate_not_yet_valid",
        )


def _utc(time: datetime) -> str:
    return f"{time:%Y-%m-%d %H:%M:%SZ}"


def _check_certificate_key(certificate: x509.Certificate) -> None:
    """Refuse presented keys that are weak or costly before any signature is checked with them."""
    key = certificate.public_key()
    if isinstance(key, rsa.RSAPublicKey):
        problem = _rsa_problem(key)
        if problem is not None:
            raise _untrusted(f"{_name(certificate)} carries {problem}")
    if isinstance(key, ec.EllipticCurvePublicKey) and not isinstance(key.curve, _ISSUER_CURVES):
        raise _untrusted(f"{_name(certificate)} carries an EC key on {key.curve.name}")


def _check_name_constraints(chain: Sequence[x509.Certificate]) -> None:
    """Refuse what the verifier lets pass although its issuers' constraints were not held against it.

    It holds DNS names, addresses and mailboxes against theirs, and refuses a SAN of any other kind that is
    constrained. It looks at no subject, and at no directory name unless the extension is critical.
    """
    for issuer in chain[1:]:
        try:
            value = issuer.extensions.get_extension_for_class(x509.NameConstraints).value
        except x509.ExtensionNotFound:
            continue
        subtrees = (*(value.permitted_subtrees or ()), *(value.excluded_subtrees or ()))
        kinds = {type(subtree) for subtree in subtrees}
        if x509.DirectoryName in kinds:
            raise _untrusted(f"{_name(issuer)} constrains directory names, which is not supported")
        if x509.UniformResourceIdentifier in kinds and _san_uris(chain[0]) is None:
            raise _untrusted(f"{_name(chain[0])} has no name that its issuer's constraints speak of")


def _check_revocation(chain: Sequence[x509.Certificate], trust: TrustStore, at: datetime) -> None:
    """Refuse a path with a revoked certificate on it, or one of which nobody can tell (RFC 5280 6.3)."""
    if not trust.revocations:
        return
    for certificate, issuer in itertools.pairwise(chain):
        found, why = revocation_of(certificate, issuer, trust.revocations, at=at)
        if found is not Revocation.GOOD:
            code = "certificate_revoked" if found is Revocation.REVOKED else "revocation_unknown"
            raise VerificationError(f"certificate {_name(certificate)}: {why}", code=code)


def _untrusted(message: str) -> VerificationError:
    return VerificationError(message, code="certificate_untrusted")


def _name(certificate: x509.Certificate) -> str:
    """Return a short picture of the subject; it is an attacker's text until the path is validated."""
    return repr(certificate.subject.rfc4514_string()[:128])


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def leaf_public_key(certificate: x509.Certificate) -> bytes:
    """Return a certificate's key as DER SubjectPublicKeyInfo; check it with :func:`load_public_key`."""
    return certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def device_id_of(certificate: x509.Certificate) -> str | None:
    """Return the device that a certificate names, or None (protocol section 7).

    It is the one SAN URI ``urn:cpk:device:<id>``, taken literally; only a certificate without any SAN may
    name the device in its subject's one CN. Several such URIs name nobody. The answer is worth nothing
    before the path is validated.
    """
    uris = _san_uris(certificate)
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
        uri.removeprefix(_BUILD_URN) for uri in _san_uris(certificate) or () if uri.startswith(_BUILD_URN)
    ]
    return names[0] if len(names) == 1 and _BUILD_NAME.fullmatch(names[0]) else None


def _san_uris(certificate: x509.Certificate) -> list[str] | None:
    """Return the URIs of the subjectAltName extension, or None if there is no such extension."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    return names.get_values_for_type(x509.UniformResourceIdentifier)

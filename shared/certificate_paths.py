"""Paths of X.509 certificates, validated to pinned roots (protocol section 7, RFC 5280).

They go through :mod:`cryptography.x509.verification`. Neither a SAN nor an extended key usage is demanded of
the leaf, because a fleet's certificates name devices and not hosts; every issuer must be a CA. Where
revocation lists are configured, every issuer on the path must have a current one. What is not checked here:
whether the leaf's key is the one it came with.

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

import functools
import hashlib
import itertools
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509 import verification

from shared.certificates import load_certificates, san_uris
from shared.errors import VerificationError
from shared.public_keys import rsa_problem
from shared.revocation import Revocation, RevocationList, revocation_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

MAX_INTERMEDIATES = 4
"""Most certificates between a leaf and its root."""

MAX_ROOTS = 64
"""Most certificates in one trust store."""

MAX_KNOWN_PATHS = 64
"""Most paths of issuers that a trust store remembers."""

MAX_TRUST_BYTES = 512 * 1024
"""Longest trust store file, in bytes."""

_ISSUER_CURVES = (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1)


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
            FormatError: As for :func:`shared.certificates.load_certificates`.
        """
        return cls(roots=load_certificates(data, where=where, most=MAX_ROOTS, most_bytes=MAX_TRUST_BYTES))

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
        chain: The leaf, then its intermediates; from :func:`shared.certificates.load_certificates`.
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
        problem = rsa_problem(key)
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
        if x509.UniformResourceIdentifier in kinds and san_uris(chain[0]) is None:
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

"""Whom a verifier trusts to sign packages: all of it given by the caller, none of it fetched.

A certificate that a package embeds, or that lies at its URL, needs a path to a root. A bare public key is
trusted if the verifier has pinned it, and a ``target`` certificate if the verifier has it under that domain:
both are trusted for themselves, the certificate while it is valid::

    Trust(roots=TrustStore.from_pem(pem, where="trust.pem"), pinned_keys=frozenset({spki_sha256}))
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cryptography import x509

from shared.certificate_paths import TrustStore, ValidatedPath, validate_path
from shared.certificates import load_certificates
from shared.cpk.schemes import (
    CertificateUrl,
    Certification,
    EmbeddedCertificate,
    EmbeddedPublicKey,
    PreSharedCertificate,
)
from shared.cpk.signing_keys import DEMO_KEY_SHA256, VerificationKey, certificate_key
from shared.errors import FormatError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from shared.cpk.package import Package
    from shared.cpk.schemes import Signature


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """What a verifier goes by.

    Attributes:
        roots: Roots whose certificates may sign packages.
        pinned_keys: SHA-256 of each SubjectPublicKeyInfo that may sign without a certificate, 32 bytes.
        device_certificates: The verifier's own certificates for ``target``, by domain, leaf first; each is
            trusted because it stands here.
        fetched_certificates: What the caller fetched for ``url``, by URL: PEM or DER, not yet looked at.
    """

    roots: TrustStore
    pinned_keys: frozenset[bytes] = frozenset()
    device_certificates: Mapping[str, Sequence[x509.Certificate]] = field(default_factory=dict)
    fetched_certificates: Mapping[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, trust: Trust | TrustStore) -> Trust:
        """Return ``trust``; roots alone trust embedded certificates alone."""
        return trust if isinstance(trust, Trust) else cls(roots=trust)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedSigner:
    """Whose signature is accepted, if it holds.

    Attributes:
        key: The key to verify with.
        path: The certificate's validated path; ``None`` for a pinned bare key.
    """

    key: VerificationKey
    path: ValidatedPath | None

    @property
    def leaf(self) -> x509.Certificate | None:
        """The signer's certificate, if it is trusted by one."""
        return self.path.leaf if self.path is not None else None

    @property
    def root_sha256(self) -> str | None:
        """SHA-256 over the root's DER, in lower-case hex, if it is trusted by a certificate."""
        return self.path.root_sha256 if self.path is not None else None

    @property
    def subject(self) -> str:
        """The certificate's subject (RFC 4514), or the SHA-256 of a pinned key."""
        if self.path is None:
            return f"pinned key {self.key.sha256.hex()}"
        return self.path.leaf.subject.rfc4514_string()


def trusted_signer(
    package: Package,
    scheme: Certification | None,
    *,
    signature: Signature,
    what: str,
    trust: Trust,
    at: datetime,
    insecure_demo_key: bool,
) -> TrustedSigner:
    """Decide whether whoever certifies a signature is trusted, at a time.

    Args:
        package: From ``inspect_package``.
        scheme: The section's certification.
        signature: What the key has to verify.
        what: The section, for messages.
        trust: What the verifier goes by.
        at: The time to judge certificates at, aware.
        insecure_demo_key: Accept the reference tool's public demo key.

    Raises:
        VerificationError: ``certificate_untrusted``, ``certificate_expired``, ``certificate_not_yet_valid``,
            ``insecure_key``, or ``signer_key_mismatch`` for a key that does not fit the signature.
    """
    where = f"{what} certificate"
    match scheme:
        case EmbeddedPublicKey(data=data):
            key = package.public_keys[data]
            _refuse_demo_key(key, where, allowed=insecure_demo_key)
            _check_key_fits(key, signature, where)
            if key.sha256 not in trust.pinned_keys:
                raise _untrusted(
                    f"{where}: expected a pinned public key, found one of SHA-256 {key.sha256.hex()}"
                )
            return TrustedSigner(key=key, path=None)
        case EmbeddedCertificate(data=data):
            chain, roots = package.certificates[data], trust.roots
        case PreSharedCertificate(domain=domain):
            chain = tuple(trust.device_certificates.get(domain, ()))
            if not chain:
                raise _untrusted(f"{where}: expected one of the device's own for {domain!a}, found none")
            roots = TrustStore(roots=(chain[0],))
        case CertificateUrl(url=url):
            chain, roots = _fetched(trust, url, where), trust.roots
        case None:
            raise _untrusted(f"{where}: expected a certificate for the signature, found none")
    key = _leaf_key(chain[0], where)
    _refuse_demo_key(key, where, allowed=insecure_demo_key)
    _check_key_fits(key, signature, where)
    _check_key_usage(chain[0], where)
    return TrustedSigner(key=key, path=validate_path(chain, roots, at=at))


def _fetched(trust: Trust, url: str, where: str) -> tuple[x509.Certificate, ...]:
    if url not in trust.fetched_certificates:
        raise _untrusted(f"{where}: expected one at hand, found the URL {url!a}, which is never fetched here")
    try:
        return load_certificates(trust.fetched_certificates[url], where=f"certificate from {url!a}")
    except FormatError as error:
        raise _untrusted(str(error)) from error


def _leaf_key(leaf: x509.Certificate, where: str) -> VerificationKey:
    try:
        return certificate_key(leaf, where=where)
    except FormatError as error:
        raise VerificationError(str(error), code="signer_key_mismatch") from error


def _refuse_demo_key(key: VerificationKey, where: str, *, allowed: bool) -> None:
    if key.sha256 == DEMO_KEY_SHA256 and not allowed:
        raise VerificationError(
            f"{where}: it holds the reference tool's demo key, whose private half is public",
            code="insecure_key",
            hint="sign with a key of your own; --insecure-allow-demo-key exists for demonstrations",
        )


def _check_key_fits(key: VerificationKey, signature: Signature, where: str) -> None:
    wanted = f"RSA of {signature.key_strength} bits" if signature.scheme.is_rsa else signature.scheme.value
    if signature.scheme not in key.schemes or key.strength != signature.key_strength:
        raise VerificationError(
            f"{where}: expected a key for {wanted} as the manifest says, found {key}",
            code="signer_key_mismatch",
        )


def _check_key_usage(leaf: x509.Certificate, where: str) -> None:
    """Refuse a leaf whose key usage excludes digital signatures (RFC 5280 section 4.2.1.3)."""
    try:
        usage = leaf.extensions.get_extension_for_class(x509.KeyUsage).value
    except x509.ExtensionNotFound:
        return
    if not usage.digital_signature:
        raise _untrusted(f"{where}: its key usage does not include digitalSignature")


def _untrusted(message: str) -> VerificationError:
    return VerificationError(message, code="certificate_untrusted")

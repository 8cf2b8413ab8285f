"""X.509 for one machine: certificate authorities, server leaves, device, build and signing certificates.

Two authorities serve a local cloud. The local root signs the TLS certificates of its servers; the fleet CA
signs the certificates of devices, build machines and package signers. Both are EC P-256 and may sign leaves
only. Every certificate has a random serial, subject and authority key identifiers, and a key usage that fits
its key, so that it holds under RFC 5280 as :mod:`cryptography.x509.verification` reads it.

Example::

    fleet = create_authority("Fleet CA", days=3650)
    fleet.save(Path("fleet-ca.pem"), Path("fleet-ca.key"))
    certificate = issue_device(fleet, "edge-01", spki, days=397)
"""

from __future__ import annotations

import datetime as dt
import ipaddress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from local_cloud.files import PRIVATE, write_atomically
from shared.errors import FormatError, StorageError
from shared.public_keys import load_public_key
from shared.types import parse_device_id

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SERVER_DAYS = 397
"""Life of a server certificate; the longest that common TLS clients accept."""

SIGNER_DAYS = 3650
"""Life of a package signing certificate: a package is verified long after it was made."""

MAX_COMMON_NAME = 64
"""Characters in a common name (RFC 5280 appendix A, ub-common-name)."""

_CLOCK_SKEW = dt.timedelta(hours=1)

CertifiedKey: TypeAlias = rsa.RSAPublicKey | ec.EllipticCurvePublicKey
"""A public key that a certificate of this module may carry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A certificate authority: its own certificate and the key that it signs with."""

    certificate: x509.Certificate
    private_key: ec.EllipticCurvePrivateKey = field(repr=False)

    @property
    def certificate_pem(self) -> bytes:
        """The authority's certificate as PEM: what its relying parties trust."""
        return certificate_pem(self.certificate)

    def save(self, certificate_file: Path, key_file: Path) -> None:
        """Write both files, each atomically; the key is readable by its owner alone.

        Raises:
            StorageError: The disk refused.
        """
        write_atomically(key_file, _private_pem(self.private_key), mode=PRIVATE)
        write_atomically(certificate_file, self.certificate_pem)

    @classmethod
    def load(cls, certificate_file: Path, key_file: Path) -> Authority:
        """Read what :meth:`save` wrote.

        Raises:
            StorageError: A file cannot be read.
            FormatError: A file does not hold what it should, or the two do not belong together.
        """
        try:
            certificate_data, key_data = certificate_file.read_bytes(), key_file.read_bytes()
        except OSError as error:
            raise StorageError(f"cannot read {error.filename}: {error.strerror}") from error
        try:
            certificate = x509.load_pem_x509_certificate(certificate_data)
        except ValueError as error:
            raise FormatError(f"{certificate_file}: expected one PEM certificate") from error
        try:
            key = serialization.load_pem_private_key(key_data, password=None)
        except (ValueError, TypeError) as error:
            raise FormatError(f"{key_file}: expected an unencrypted PEM private key") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise FormatError(f"{key_file}: not the EC private key of {certificate_file}")
        return cls(certificate=certificate, private_key=key)


def create_authority(common_name: str, *, days: int) -> Authority:
    """Make a self-signed EC P-256 authority, valid for ``days``, that may sign leaves only."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = _name(common_name)
    builder = (
        _begin(name, name, key.public_key(), days)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
    )
    return Authority(certificate=builder.sign(key, hashes.SHA256()), private_key=key)


def issue_server(authority: Authority, hosts: Sequence[str]) -> tuple[bytes, bytes]:
    """Make a TLS server's key and certificate for ``hosts``: DNS names and IP addresses.

    Returns:
        The chain as PEM, leaf first, and the EC P-256 key as PKCS#8 PEM.

    Raises:
        FormatError: No host is given.
    """
    if not hosts:
        raise FormatError("server certificate: expected at least one host, found none")
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = _issue(
        authority,
        hosts[0],
        key.public_key(),
        days=SERVER_DAYS,
        names=[_host_name(host) for host in hosts],
        usage=ExtendedKeyUsageOID.SERVER_AUTH,
    )
    return certificate_pem(leaf) + authority.certificate_pem, _private_pem(key)


def issue_device(
    authority: Authority, device_id: str, public_key_spki: bytes, *, days: int
) -> x509.Certificate:
    """Certify a device's public key under SAN URI ``urn:cpk:device:<id>``; the common name is the device id.

    Args:
        authority: The fleet CA.
        device_id: As the hub knows it, ``device`` or ``device/module``; at most 64 characters.
        public_key_spki: DER SubjectPublicKeyInfo of an RSA or EC key.
        days: How long it is valid.

    Raises:
        FormatError: The id or the key is not acceptable.
    """
    parse_device_id(device_id, where="device certificate")
    uri = f"urn:cpk:device:{device_id}"
    return _issue_client(authority, device_id, public_key_spki, uri=uri, days=days)


def issue_build(authority: Authority, name: str, public_key_spki: bytes, *, days: int) -> x509.Certificate:
    """Certify a build machine's public key under SAN URI ``urn:cpk:build:<name>``.

    Raises:
        FormatError: The name (1 to 64 characters of a device id's alphabet) or the key is not acceptable.
    """
    parse_device_id(name, where="build certificate")
    return _issue_client(authority, name, public_key_spki, uri=f"urn:cpk:build:{name}", days=days)


def issue_signer(
    authority: Authority, common_name: str, public_key: CertifiedKey, *, days: int = SIGNER_DAYS
) -> x509.Certificate:
    """Certify a public key for signing packages.

    Raises:
        FormatError: The common name is empty or too long.
    """
    return _issue(authority, common_name, public_key, days=days, names=[], usage=None)


def certificate_pem(*chain: x509.Certificate) -> bytes:
    """Return certificates as concatenated PEM."""
    return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in chain)


def _issue_client(
    authority: Authority, common_name: str, public_key_spki: bytes, *, uri: str, days: int
) -> x509.Certificate:
    where = f"public key of {common_name}"
    key = load_public_key(public_key_spki, where=where).key
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey):
        raise FormatError(f"{where}: expected RSA or EC, found {type(key).__name__}")
    names = [x509.UniformResourceIdentifier(uri)]
    return _issue(authority, common_name, key, days=days, names=names, usage=ExtendedKeyUsageOID.CLIENT_AUTH)


def _issue(
    authority: Authority,
    common_name: str,
    public_key: CertifiedKey,
    *,
    days: int,
    names: Sequence[x509.GeneralName],
    usage: x509.ObjectIdentifier | None,
) -> x509.Certificate:
    builder = (
        _begin(_name(common_name), authority.certificate.subject, public_key, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.private_key.public_key()),
            critical=False,
        )
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    if usage is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    return builder.sign(authority.private_key, hashes.SHA256())


def _begin(
    subject: x509.Name, issuer: x509.Name, public_key: CertifiedKey, days: int
) -> x509.CertificateBuilder:
    """Return what every certificate has; it starts an hour ago, for peers whose clock is behind."""
    now = dt.datetime.now(dt.UTC).replace(microsecond=0)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + dt.timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _name(common_name: str) -> x509.Name:
    if not 1 <= len(common_name) <= MAX_COMMON_NAME:
        raise FormatError(
            f"certificate: expected a common name of 1 to {MAX_COMMON_NAME} characters, "
            f"found {len(common_name)}"
        )
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _host_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )

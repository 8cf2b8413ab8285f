"""What a package is held to, and whom it is trusted from: the options of every command that opens one."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from cpk_tool.key_files import read_small
from cpk_tool.output import UsageError
from shared.certificate_paths import TrustStore
from shared.certificates import load_certificates
from shared.cpk.package import inspect_package
from shared.cpk.schemes import CertificateUrl
from shared.cpk.trust import Trust
from shared.cpk.verifying import Requirements

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping, Sequence

    from cryptography import x509

    from cpk_tool.certificate_fetch import Network

_SHA256 = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What :func:`shared.cpk.opening.open_package` is to hold a package to.

    Attributes:
        trust: Whose signatures are accepted.
        at: The time to judge certificates at.
        requirements: What a package must carry.
    """

    trust: Trust
    at: datetime
    requirements: Requirements


def add_verification(parser: argparse.ArgumentParser) -> None:
    """Declare trust, time and requirements."""
    group = parser.add_argument_group("trust")
    group.add_argument(
        "--trust", type=Path, metavar="FILE", help="PEM roots whose certificates may sign packages"
    )
    group.add_argument(
        "--pin-key",
        action="append",
        default=[],
        metavar="SHA256",
        help="a public key that may sign without a certificate: SHA-256 of its SubjectPublicKeyInfo, in hex",
    )
    group.add_argument(
        "--device-certificate",
        action="append",
        default=[],
        metavar="DOMAIN=FILE",
        help="the certificate that devices have in their own store under this domain",
    )
    group.add_argument(
        "--fetch-certificate",
        action="append",
        default=[],
        metavar="HOST",
        help="fetch a certificate that the package names by URL, if it lies on this host; HTTPS only, no "
        "private address, no redirect, and it still needs a path to --trust",
    )
    group.add_argument(
        "--at", metavar="TIME", help="judge certificates at this RFC 3339 time; by default now"
    )
    group.add_argument(
        "--require-package-signature", action="store_true", help="refuse what is signed in its payload alone"
    )
    group.add_argument(
        "--insecure-allow-demo-key",
        action="store_true",
        help="accept the reference tool's signing key, whose private half is public",
    )


def verification_problems(options: argparse.Namespace) -> list[str]:
    """Return what is wrong with the options of :func:`add_verification`, one line each."""
    problems = [
        f"--pin-key: expected 64 hex digits, found {text!r}"
        for text in options.pin_key
        if not _SHA256.fullmatch(text)
    ]
    problems += [
        f"--device-certificate: expected DOMAIN=FILE, found {text!r}"
        for text in options.device_certificate
        if not all(text.partition("="))
    ]
    if not (options.trust or options.pin_key or options.device_certificate):
        problems.append("expected --trust, --pin-key or --device-certificate, found none: nobody is trusted")
    return problems


def verification_from(
    options: argparse.Namespace, file: BinaryIO, *, network: Network | None = None
) -> Verification:
    """Return what to hold a package to; its certificate is fetched if the command line allows that.

    Args:
        options: The command line.
        file: The package.
        network: The way to certificates that are fetched; by default this machine's.

    Raises:
        UsageError: A time that is none.
        FormatError: A file of certificates that is none, or a package that is malformed.
        PolicyDenied: A certificate lies where it may not be fetched from.
        TransportError: It cannot be fetched.
        OSError: A file cannot be read.
    """
    roots = TrustStore(roots=())
    if options.trust is not None:
        roots = TrustStore.from_pem(read_small(options.trust), where=str(options.trust))
    return Verification(
        trust=Trust(
            roots=roots,
            pinned_keys=frozenset(bytes.fromhex(text) for text in options.pin_key),
            device_certificates=dict(map(_device_certificate, options.device_certificate)),
            fetched_certificates=_fetched(options, file, network) if options.fetch_certificate else {},
        ),
        at=_time(options.at),
        requirements=Requirements(
            package_signature=options.require_package_signature,
            insecure_demo_key=options.insecure_allow_demo_key,
        ),
    )


def _device_certificate(text: str) -> tuple[str, Sequence[x509.Certificate]]:
    domain, _, path = text.partition("=")
    return domain, load_certificates(read_small(Path(path)), where=path)


def _fetched(options: argparse.Namespace, file: BinaryIO, network: Network | None) -> Mapping[str, bytes]:
    """Fetch every certificate that the package names by URL."""
    from cpk_tool.certificate_fetch import (  # noqa: PLC0415 - seldom needed
        CertificateFetcher,
        SystemNetwork,
    )

    manifest = inspect_package(file, os.fstat(file.fileno()).st_size).manifest
    schemes = (manifest.payload.certification, manifest.package.certification)
    urls = {scheme.url for scheme in schemes if isinstance(scheme, CertificateUrl)}
    hosts = frozenset(host.lower() for host in options.fetch_certificate)
    fetcher = CertificateFetcher(hosts=hosts, ca_file=options.ca_file, network=network or SystemNetwork())
    return {url: fetcher.fetch(url) for url in sorted(urls)}


def _time(text: str | None) -> datetime:
    if text is None:
        return datetime.now(UTC)
    try:
        at = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"--at: expected an RFC 3339 time, found {text!r}") from error
    if at.tzinfo is None:
        raise UsageError(f"--at: expected an RFC 3339 time with an offset such as Z, found {text!r}")
    return at

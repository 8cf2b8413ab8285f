"""``cpk-tool inspect``: what a package says about itself, without any key and without trusting it."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.serialization import Encoding

from cpk_tool.options import add_json
from cpk_tool.output import DONE, print_fields, print_json, print_line, print_table
from shared.certificates import leaf_public_key
from shared.cpk.frame import FRAME_VERSION
from shared.cpk.package import Package, inspect_package
from shared.cpk.schemes import CertificateUrl, EmbeddedCertificate, EmbeddedPublicKey, PreSharedCertificate

if TYPE_CHECKING:
    import argparse

    from cryptography import x509

    from shared.cpk.manifest import PackageSection, Payload


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("package", type=Path, metavar="FILE", help="the package")
    add_json(parser)
    parser.epilog = "exit status: 0 well formed, 1 malformed\n\nexample:\n  cpk-tool inspect app.cpk"


def run(options: argparse.Namespace) -> int:
    """Show a package's frame, manifest, signers and warnings."""
    package = load_package(options.package)
    if options.json:
        print_json({"result": "ok", "file": str(options.package), **_document(package)})
    else:
        _print(options.package, package)
    return DONE


def load_package(path: Path) -> Package:
    """Return the package in ``path``.

    Raises:
        FormatError: It is malformed.
    """
    with path.open("rb") as file:
        return inspect_package(file, os.fstat(file.fileno()).st_size)


def _document(package: Package) -> dict[str, object]:
    frame, manifest = package.frame, package.manifest
    streams = [
        {
            "index": stream.index,
            "offset": stream.offset,
            "size": stream.size,
            "file_offset": frame.file_offset(stream.index),
            "roles": [role.value for role in package.roles_of(stream.index)],
        }
        for stream in frame.streams
    ]
    return {
        "size": package.size,
        "frame": {
            "version": FRAME_VERSION,
            "manifest_index": frame.manifest_index,
            "origin": frame.origin,
            "streams": streams,
        },
        "manifest": json.loads(package.contents[frame.manifest_index]),
        "signers": {
            "payload": _signer(package, manifest.payload),
            "package": _signer(package, manifest.package),
        },
        "warnings": list(package.warnings),
    }


def _signer(package: Package, section: Payload | PackageSection) -> dict[str, object] | None:
    """Return whom a section says it is signed by; nothing here has been verified."""
    signature = section.signature
    if signature is None:
        return None
    document: dict[str, object] = {"scheme": signature.scheme.value, "key_strength": signature.key_strength}
    match section.certification:
        case EmbeddedCertificate(data=data):
            return document | _certificate(package.certificates[data][0])
        case EmbeddedPublicKey(data=data):
            return document | {"public_key_sha256": package.public_keys[data].sha256.hex()}
        case PreSharedCertificate(domain=domain):
            return document | {"domain": domain}
        case CertificateUrl(url=url):
            return document | {"url": url}
        case _:
            return document


def _certificate(leaf: x509.Certificate) -> dict[str, object]:
    return {
        "subject": leaf.subject.rfc4514_string(),
        "issuer": leaf.issuer.rfc4514_string(),
        "not_before": _time(leaf, "not_valid_before_utc"),
        "not_after": _time(leaf, "not_valid_after_utc"),
        "certificate_sha256": hashlib.sha256(leaf.public_bytes(Encoding.DER)).hexdigest(),
        "public_key_sha256": hashlib.sha256(leaf_public_key(leaf)).hexdigest(),
    }


def _time(certificate: x509.Certificate, name: str) -> str:
    return f"{getattr(certificate, name):%Y-%m-%dT%H:%M:%SZ}"


def _print(path: Path, package: Package) -> None:
    manifest = package.manifest
    encryption = manifest.payload.encryption
    fields: dict[str, object] = {
        "id": manifest.id,
        "name": manifest.name,
        "vendor": manifest.vendor,
        "version": f"{manifest.payload.version} of {manifest.payload.version.date:%Y-%m-%d %H:%M:%SZ}",
        "target": f"{manifest.payload.target.arch} {manifest.payload.target.os}",
        "encryption": "none",
        "digest": "none",
        "payload signed by": _shown_signer(package, manifest.payload),
        "package signed by": _shown_signer(package, manifest.package),
    }
    if encryption is not None:
        version = "" if encryption.key_version is None else f" version {encryption.key_version}"
        fields["encryption"] = f"{encryption} under {encryption.key_name}{version}"
    if manifest.payload.digest is not None:
        of = "its ciphertext" if manifest.payload.digest.of_ciphertext else "the payload in clear"
        fields["digest"] = f"{manifest.payload.digest.algorithm.value} of {of}"
    print_line(f"{path}: confidential package of {package.size} bytes, not verified")
    print_fields(fields)
    rows = [
        (
            stream.index,
            package.frame.file_offset(stream.index),
            stream.size,
            ", ".join(role.value for role in package.roles_of(stream.index)) or "-",
        )
        for stream in package.frame.streams
    ]
    print_table(("stream", "at", "bytes", "what"), rows)
    for warning in package.warnings:
        print_line(f"  warning: {warning}")


def _shown_signer(package: Package, section: Payload | PackageSection) -> str:
    signer = _signer(package, section)
    if signer is None or section.signature is None:
        return "nobody"
    match section.certification:
        case EmbeddedCertificate():
            shown = f"{signer['subject']}, issued by {signer['issuer']}"
        case EmbeddedPublicKey():
            shown = f"public key with SHA-256 {signer['public_key_sha256']}"
        case PreSharedCertificate() | CertificateUrl() as elsewhere:
            shown = elsewhere.place
        case _:
            shown = "somebody without a certificate"
    return f"{shown}, {section.signature.scheme.value}"

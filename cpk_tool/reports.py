"""What is told about a package that was built, and about one that was opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cpk_tool.output import print_fields, print_line

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from shared.cpk.opening import OpenedPackage
    from shared.cpk.planning import ClassKey
    from shared.cpk.sealing import SealedPackage
    from shared.cpk.signing import Signer


def sealed_document(
    path: Path, sealed: SealedPackage, class_key: ClassKey, signer: Signer | None
) -> dict[str, object]:
    """Return what is reported of a package that was written, for JSON."""
    return {
        "file": str(path),
        "size": sealed.size,
        "cp_id": sealed.manifest.id,
        "version": str(sealed.manifest.payload.version),
        "key_name": class_key.name,
        "key_version": class_key.version,
        "encryption": str(sealed.manifest.payload.encryption),
        "signed_by": signer.subject if signer is not None else None,
        "signature_scheme": signer.scheme.value if signer is not None else None,
        "package_signed": sealed.manifest.package.signature is not None,
    }


def print_sealed(document: Mapping[str, object], *, prepared: bool = False) -> None:
    """Write one line about a package that was written."""
    version = "" if document["key_version"] is None else f" version {document['key_version']}"
    signed_by = document["signed_by"]
    signed = f"{'to be signed' if prepared else 'signed'} by {signed_by}"
    print_line(
        f"{document['file']}: {document['size']} bytes, class key {document['key_name']}{version}, "
        f"{'not signed' if signed_by is None else signed}"
    )


def opened_document(opened: OpenedPackage) -> dict[str, object]:
    """Return what is reported of a package of which everything held, for JSON."""
    manifest, signer = opened.manifest, opened.signer
    encryption = manifest.payload.encryption
    path = signer.path if signer is not None else None
    return {
        "cp_id": manifest.id,
        "name": manifest.name,
        "vendor": manifest.vendor,
        "version": str(manifest.payload.version),
        "encryption": str(encryption) if encryption is not None else None,
        "key_name": encryption.key_name if encryption is not None else None,
        "key_version": encryption.key_version if encryption is not None else None,
        "payload_size": opened.payload_size,
        "payload_sha256": opened.payload_sha256.hex() if opened.payload_sha256 is not None else None,
        "signed_by": signer.subject if signer is not None else None,
        "root_sha256": path.root_sha256 if path is not None else None,
        "package_signed": opened.package_signed,
    }


def print_opened(document: Mapping[str, object]) -> None:
    """Write a line for each thing that is reported of a package of which everything held."""
    print_fields({name.replace("_", " "): _shown(value) for name, value in document.items()})


def _shown(value: object) -> object:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "not stated" if value is None else value

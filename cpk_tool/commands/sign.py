"""``cpk-tool sign``: put signatures into a package that was built with ``--prepare``."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from cpk_tool.atomic_file import replacing
from cpk_tool.key_files import read_small
from cpk_tool.options import add_json
from cpk_tool.output import DONE, print_json, print_line, warn
from cpk_tool.progress import reading
from cpk_tool.signing_options import add_signing_key, open_signing_key
from shared.cpk.offline import fill_signatures, package_to_sign, payload_to_sign
from shared.cpk.package import Package, inspect_package
from shared.errors import SettingsError

if TYPE_CHECKING:
    import argparse

    from cpk_tool.signing_keys.port import SigningKey


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Put signatures into a package that was built with --prepare.\n\n"
        "Either by a key at hand, which needs no class key and sees no payload in clear; or with signatures\n"
        "that were made elsewhere over what `cpk-tool digest` prints. Each is checked under the package's\n"
        "certificate before anything is written. ECDSA signatures may be in DER, as openssl writes them."
    )
    add = parser.add_argument
    add("package", type=Path, metavar="FILE", help="the prepared package")
    add("-o", "--out-file", type=Path, required=True, metavar="FILE", help="the package to write")
    elsewhere = parser.add_argument_group("signatures made elsewhere")
    elsewhere.add_argument("--signature", type=Path, metavar="FILE", help="the payload's")
    elsewhere.add_argument("--package-signature", type=Path, metavar="FILE", help="the package's")
    key = parser.add_argument_group("a key at hand")
    add_signing_key(key)
    add(
        "--cert",
        type=Path,
        metavar="FILE",
        help="certificate or public key to check with, where the package embeds none",
    )
    add_json(parser)
    parser.epilog = (
        "examples:\n"
        "  cpk-tool sign app.prepared -o app.cpk --signature payload.sig --package-signature package.sig\n"
        "  cpk-tool sign app.prepared -o app.cpk --sign-key 'pkcs11:token=hsm;object=packages'"
    )


def run(options: argparse.Namespace) -> int:
    """Fill signatures in."""
    if problems := _problems(options):
        raise SettingsError(problems)
    certificate = read_small(options.cert) if options.cert is not None else None
    with options.package.open("rb", buffering=0) as source:
        size = os.fstat(source.fileno()).st_size
        payload_signature, package_signature = _given(options)
        if options.sign_key is not None:
            with contextlib.closing(open_signing_key(options)) as key:
                if certificate is None and key.public_key is not None:
                    certificate = key.public_key.spki
                payload_signature, package_signature = _signed(key, source, size)
        with (
            replacing(options.out_file) as output,
            reading(source, options.package.name, size) as counted,
        ):
            fill_signatures(
                counted,
                size,
                output,
                payload_signature=payload_signature,
                package_signature=package_signature,
                certificate=certificate,
            )
        package = inspect_package(source, size)
    _report(options, package, whole=package_signature is not None)
    return DONE


def _problems(options: argparse.Namespace) -> list[str]:
    given = [name for name in ("signature", "package_signature") if getattr(options, name) is not None]
    if bool(given) is (options.sign_key is not None):
        return ["expected --signature and --package-signature, or --sign-key, found both or neither"]
    return []


def _given(options: argparse.Namespace) -> tuple[bytes | None, bytes | None]:
    """Return the signatures that were made elsewhere."""
    files = (options.signature, options.package_signature)
    payload, package = (read_small(file) if file is not None else None for file in files)
    return payload, package


def _signed(key: SigningKey, source: BinaryIO, size: int) -> tuple[bytes | None, bytes | None]:
    """Return both signatures by a key at hand; the payload's is left alone if it is there already."""
    package = inspect_package(source, size)
    payload = None
    if not _has_payload_signature(package):
        request = payload_to_sign(source, size)
        payload = key.sign(request.scheme, request.digest, request.role)
    if package.manifest.package.signature is None:
        return payload, None
    request = package_to_sign(source, size, payload_signature=payload)
    return payload, key.sign(request.scheme, request.digest, request.role)


def _has_payload_signature(package: Package) -> bool:
    signature = package.manifest.payload.signature
    return signature is not None and any(package.contents[signature.data])


def _report(options: argparse.Namespace, package: Package, *, whole: bool) -> None:
    if package.manifest.package.signature is not None and not whole:
        warn("the package's own signature is still missing: every reader refuses it")
    if options.json:
        print_json(
            {
                "result": "ok",
                "file": str(options.out_file),
                "cp_id": package.manifest.id,
                "size": package.size,
                "package_signed": whole,
            }
        )
    else:
        what = "payload and package" if whole else "payload"
        print_line(f"{options.out_file}: {package.size} bytes, {what} signed")

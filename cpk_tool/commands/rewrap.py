"""``cpk-tool rewrap``: the same payload under another class key, never in clear outside memory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cpk_tool.atomic_file import replacing
from cpk_tool.class_keys import KeySource, add_class_key_source
from cpk_tool.opening import opening_problems
from cpk_tool.options import add_json, location
from cpk_tool.output import DONE, print_json, warn
from cpk_tool.progress import reading
from cpk_tool.reports import print_sealed, sealed_document
from cpk_tool.scheme_options import add_schemes, chosen_profile, scheme_problems
from cpk_tool.signing_options import add_signing, signer_from, signing_problems
from cpk_tool.verification_options import add_verification, verification_from
from shared.cpk.package import inspect_package
from shared.cpk.rewrap import rewrap_package
from shared.errors import FormatError, SettingsError
from shared.types import parse_key_name

if TYPE_CHECKING:
    import argparse

    from shared.cpk.package import Package
    from shared.types import KeyName


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Seal the same payload under another class key, or another version of its own.\n\n"
        "The old package is verified first, and nothing is signed unless all of it held. Id, name, vendor,\n"
        "version and target stay. The payload is in clear in memory alone, a few chunks at a time."
    )
    add = parser.add_argument
    add("package", type=Path, metavar="FILE", help="the package")
    add("-o", "--out-file", type=Path, required=True, metavar="FILE", help="the package to write")
    add("--to-key-name", metavar="NAME", help="the new class key's name; by default the old one's")
    add(
        "--to-key-store",
        type=location,
        metavar="URL_OR_FILE",
        help="where the new class key is; by default where the old one is",
    )
    add_class_key_source(parser)
    add_verification(parser)
    add_schemes(parser)
    add_signing(parser, title="signing the new package; without these it is unsigned")
    add_json(parser)
    parser.epilog = (
        "examples:\n"
        "  cpk-tool rewrap app.cpk -o app-2.cpk --to-key-name other -k keys.json --trust trust.pem \\\n"
        "      --sign-key sign.key --cert sign.pem\n"
        "  # under the newest version of its class key\n"
        "  cpk-tool rewrap app.cpk -o app-2.cpk -k https://keys.example/api/WrapKey \\\n"
        "      --client-key build.key --client-cert build.pem --trust trust.pem \\\n"
        "      --sign-key sign.key --cert sign.pem"
    )


def run(options: argparse.Namespace) -> int:
    """Write the package anew."""
    problems = opening_problems(options) + scheme_problems(options) + signing_problems(options, offline=False)
    if problems:
        raise SettingsError(problems)
    keys, profile = KeySource.of(options), chosen_profile(options)
    with signer_from(options) as signer, options.package.open("rb", buffering=0) as source:
        size = os.fstat(source.fileno()).st_size
        package = inspect_package(source, size)
        verification = verification_from(options, source)
        class_key = keys.at(options.to_key_store).to_seal(_new_key_name(options, package))
        with replacing(options.out_file) as output, reading(source, options.package.name, size) as counted:
            sealed = rewrap_package(
                counted,
                size,
                output,
                old_key=keys.to_open,
                trust=verification.trust,
                at=verification.at,
                requirements=verification.requirements,
                class_key=class_key,
                nonce=os.urandom(profile.nonce_size),
                signer=signer,
                profile=profile,
            )
    if signer is None:
        warn("the new package is not signed: a CPM refuses it; sign with --sign-key and --cert")
    document = sealed_document(options.out_file, sealed, class_key, signer)
    if options.json:
        print_json({"result": "ok", "from": str(options.package), **document})
    else:
        print_sealed(document)
    return DONE


def _new_key_name(options: argparse.Namespace, package: Package) -> KeyName:
    if options.to_key_name is not None:
        return parse_key_name(options.to_key_name, where="--to-key-name")
    encryption = package.manifest.payload.encryption
    if encryption is None:
        raise FormatError(f"{options.package}: expected an encrypted payload, or --to-key-name")
    return parse_key_name(encryption.key_name, where="the package's key_name")

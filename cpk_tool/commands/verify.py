"""``cpk-tool verify``: decrypt a package in memory and check everything that it carries."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cpk_tool.class_keys import add_class_key_source
from cpk_tool.opening import open_verified, opening_problems
from cpk_tool.options import add_json
from cpk_tool.output import DONE, print_json, print_line
from cpk_tool.reports import opened_document, print_opened
from cpk_tool.verification_options import add_verification
from shared.errors import SettingsError

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("package", type=Path, metavar="FILE", help="the package")
    add_verification(parser)
    add_class_key_source(parser)
    add_json(parser)
    parser.epilog = (
        "exit status: 0 everything held, 1 malformed, 3 refused\n\n"
        "examples:\n"
        "  cpk-tool verify app.cpk --key-store keys.json --trust trust.pem\n"
        "  cpk-tool verify app.cpk -k https://keys.example/api/WrapKey --client-key build.key \\\n"
        "      --client-cert build.pem --trust trust.pem --require-package-signature --json"
    )


def run(options: argparse.Namespace) -> int:
    """Verify a package; nothing is written."""
    if problems := opening_problems(options):
        raise SettingsError(problems)
    opened = open_verified(options, options.package, lambda _chunk: None)
    document = opened_document(opened)
    if options.json:
        print_json({"result": "ok", "file": str(options.package), **document})
    else:
        print_line(f"{options.package}: verified")
        print_opened(document)
    return DONE

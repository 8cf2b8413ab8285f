"""``cpk-tool extract``: verify a package and write its payload in clear, for who holds the class key."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cpk_tool.atomic_file import replacing
from cpk_tool.class_keys import add_class_key_source
from cpk_tool.opening import open_verified, opening_problems
from cpk_tool.options import add_json
from cpk_tool.output import DONE, UsageError, print_json, print_line
from cpk_tool.reports import opened_document
from cpk_tool.verification_options import add_verification
from shared.errors import SettingsError

if TYPE_CHECKING:
    import argparse
    from typing import BinaryIO


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Verify a package and write its payload in clear.\n\n"
        "The payload appears under its name, readable by its owner alone, when everything held; before that\n"
        "nothing of it can be found."
    )
    parser.add_argument("package", type=Path, metavar="FILE", help="the package")
    parser.add_argument(
        "-o", "--out-file", type=Path, required=True, metavar="FILE", help="the payload to write"
    )
    add_verification(parser)
    add_class_key_source(parser)
    add_json(parser)
    parser.epilog = (
        "exit status: 0 written, 1 malformed or failed, 3 refused\n\n"
        "example:\n  cpk-tool extract app.cpk -o app.pyz --key-store keys.json --trust trust.pem"
    )


def run(options: argparse.Namespace) -> int:
    """Write a payload in clear."""
    if problems := opening_problems(options):
        raise SettingsError(problems)
    if options.out_file.exists() and options.package.samefile(options.out_file):
        raise UsageError("-o: expected another file than the package, found the same one")
    with replacing(options.out_file, private=True) as output:
        opened = open_verified(options, options.package, lambda chunk: _write(output, chunk))
    if options.json:
        document = opened_document(opened)
        print_json(
            {"result": "ok", "file": str(options.package), "out_file": str(options.out_file), **document}
        )
    else:
        manifest = opened.manifest
        print_line(
            f"{options.out_file}: {opened.payload_size} bytes, {manifest.id} {manifest.payload.version}"
        )
    return DONE


def _write(output: BinaryIO, chunk: memoryview) -> None:
    while chunk:
        chunk = chunk[output.write(chunk) :]

"""``edb keys import``: bring a key of one's own; it leaves this machine only wrapped under the KEK."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edb.byok import kek_from_jwk, wrap_under_kek
from edb.key_service import key_service
from edb.options import add_connection, add_json, add_key_name
from edb.secret_files import read_secret
from shared.command_line.output import DONE, print_json, print_line
from shared.errors import FormatError
from shared.keys.wrapping import KEY_LENGTHS
from shared.types import Secret

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Bring a key of one's own as version 1 of a new class key.\n\n"
        "The key is wrapped here with RSA-OAEP-256 under the public half of the service's key encryption\n"
        "key, whose private half never leaves its vault. The file holds 16, 24 or 32 raw bytes and nothing\n"
        "else, and only its owner may be able to read it. Overwrite it once it is imported."
    )
    add_key_name(parser)
    parser.add_argument("file", type=Path, metavar="FILE", help="the raw key; - is standard input")
    add_connection(parser)
    add_json(parser)
    parser.epilog = (
        "examples:\n"
        "  (umask 077; openssl rand 32 > my_app.key)\n"
        "  edb keys import my_app my_app.key\n"
        "  pkcs11-tool --read-object … | edb keys import my_app -"
    )


def run(options: argparse.Namespace) -> int:
    """Wrap the key and send it."""
    key = Secret(read_secret(options.file, most=max(KEY_LENGTHS) + 1))
    if len(key) not in KEY_LENGTHS:
        found = len(key) if len(key) <= max(KEY_LENGTHS) else f"more than {max(KEY_LENGTHS)}"
        raise FormatError(
            f"{options.file}: expected 16, 24 or 32 raw bytes, found {found}",
            hint="not hex, not base64, no line end",
        )
    with key_service(options) as service:
        kek = kek_from_jwk(service.import_public_key())
        answer = service.import_key(options.key_name, wrap_under_kek(key, kek), kid=kek.kid)
    if options.json:
        print_json({**answer, "kid": kek.kid})
    else:
        print_line(f"{options.key_name}: version 1 was imported, aes-gcm-{len(key) * 8}, under {kek.kid}")
    return DONE

"""``edb health``: whether the key service is up, and ready."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edb.key_service import key_service
from edb.options import add_connection, add_json
from shared.command_line.output import DONE, print_json, print_line

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Ask whether the key service is up and whether what it depends on answers; needs no function key.\n\n"
        "Ends with status 1 if it is not."
    )
    parser.add_argument("--live", action="store_true", help="ask only whether it is up")
    add_connection(parser)
    add_json(parser)
    parser.epilog = "examples:\n  edb health\n  edb health --url https://keys.example --json"


def run(options: argparse.Namespace) -> int:
    """Ask."""
    with key_service(options) as service:
        document = service.health()
        ready = None if options.live else service.readiness()
    if options.json:
        print_json(document if ready is None else {**document, "ready": ready})
    else:
        print_line(f"{document.get('audience', 'key service')}: up{'' if ready is None else ' and ready'}")
    return DONE

"""``edb keys holders``: which devices hold a class key, and which version."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edb.answers import Holder
from edb.key_service import key_service
from edb.options import add_connection, add_json, add_key_name, version
from edb.output import print_table
from shared.command_line.output import DONE, print_json
from shared.wire.rollout import REPORT_STATES

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Show which devices hold a class key, or were given it, and which version they report.\n\n"
        "A device reports the newest version that it holds. It keeps the older ones until they are revoked\n"
        "or their leases end."
    )
    add_key_name(parser)
    parser.add_argument(
        "--version",
        type=version,
        metavar="N",
        help="only devices that report this version, or were given it by a staged rotation",
    )
    parser.add_argument("--state", choices=REPORT_STATES, help="only devices that report this of the key")
    add_connection(parser)
    add_json(parser)
    parser.epilog = (
        "examples:\n"
        "  edb keys holders my_app --version 1        # who still holds version 1\n"
        "  edb keys holders my_app --state error\n"
        "  edb keys holders my_app --json | jq -r '.holders[] | select(.bucket < 100) | .device_id'  # 1%"
    )


def run(options: argparse.Namespace) -> int:
    """Show the holders."""
    with key_service(options) as service:
        pages = service.holder_pages(options.key_name, version=options.version, state=options.state)
        found = [entry for page in pages for entry in page]
    holders = [Holder.read(entry) for entry in found]
    if options.json:
        print_json({"holders": found})
        return DONE
    rows = [
        (each.device_id, each.version, each.state, each.staged, each.bucket, each.error or each.outcome)
        for each in sorted(holders, key=lambda each: each.device_id)
    ]
    head = ("device", "version", "state", "staged", "bucket", "detail")
    print_table(head, rows, empty="no device holds it")
    return DONE

"""``edb keys rewrap``: move class keys under the newest version of the key encryption key, until all are."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edb.answers import Fields
from edb.key_service import key_service
from edb.options import add_connection, add_json, key_name
from shared.command_line.output import DONE, print_json, print_line
from shared.errors import EdbError

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Move the envelopes of class keys under the newest version of the key encryption key.\n\n"
        "Do it after that key was rotated, before its old version is disabled. The class keys stay as they\n"
        "are, devices notice nothing, and everything stays readable in between. It may be interrupted and\n"
        "begun again."
    )
    parser.add_argument(
        "key_name", type=key_name, nargs="?", metavar="KEY_NAME", help="one class key; by default all"
    )
    add_connection(parser)
    add_json(parser)
    parser.epilog = "examples:\n  edb keys rewrap\n  edb keys rewrap my_app --json"


def run(options: argparse.Namespace) -> int:
    """Ask for portions until nothing remains."""
    rewrapped = 0
    with key_service(options) as service:
        while True:
            fields = Fields(service.rewrap(options.key_name), where="answer")
            portion, remaining = fields.need("rewrapped", int), fields.need("remaining", int)
            rewrapped += portion
            if not remaining:
                break
            if not portion:
                raise EdbError(
                    f"{remaining} envelopes are still under an older key encryption key, and none was moved",
                    code="rewrap_stuck",
                    hint="look at the audit log: edb audit tail",
                )
    kek = fields.get("kek_version", object)
    if options.json:
        print_json({"rewrapped": rewrapped, "remaining": 0, "kek_version": kek})
    else:
        print_line(f"{rewrapped} envelopes were moved; all are under key encryption key version {kek}")
    return DONE

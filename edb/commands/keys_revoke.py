"""``edb keys revoke``: revoke a version of a class key and all older ones, and wait for the devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edb.key_service import key_service
from edb.options import add_connection, add_json, add_key_name, add_waiting, add_yes, confirm, version
from edb.waiting import wait_for_devices, write_event
from shared.command_line.output import DONE, print_json, print_line

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Revoke a version of a class key, and all older ones; there is no way back.\n\n"
        "They are wrapped for nobody any more, devices drop them with their next release, and packages\n"
        "that were sealed under them no longer install. Revoking the newest version takes the class key\n"
        "away from every device until it is rotated."
    )
    add_key_name(parser)
    parser.add_argument(
        "--version",
        type=version,
        required=True,
        metavar="N",
        help="the newest version to revoke; all older ones go with it",
    )
    add_yes(parser)
    add_waiting(parser, what="wait until every device that holds the key has acknowledged that it is gone")
    add_connection(parser)
    add_json(parser)
    parser.epilog = (
        "examples:\n"
        "  edb keys revoke my_app --version 1 --wait\n"
        "  edb keys revoke my_app --version 1 --yes --json\n"
        "\n"
        "notes:\n"
        "  --wait only reads: interrupt it when you like; `edb keys show my_app --wait` goes on."
    )


def run(options: argparse.Namespace) -> int:
    """Revoke, and wait if asked to."""
    name = options.key_name
    confirm(options, f"{name}: revoke version {options.version} and all older ones for good?")
    with key_service(options) as service:
        answer = service.revoke(name, options.version)
        if options.json and options.wait:
            write_event("revoked", answer)
        elif options.json:
            print_json(answer)
        else:
            print_line(f"{name}: the lowest version that is left is {answer.get('floor')}")
        return wait_for_devices(service, name, options) if options.wait else DONE

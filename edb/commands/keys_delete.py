"""``edb keys delete``: delete a class key, so that it can be recovered for a while."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edb.key_service import key_service
from edb.options import add_connection, add_json, add_key_name, add_yes, confirm
from shared.command_line.output import DONE, print_json, print_line

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Delete a class key with all its versions.\n\n"
        "Devices drop it with their next release. The vault keeps it for its retention time, in which\n"
        "`edb keys recover` brings it back and its name cannot be provisioned again."
    )
    add_key_name(parser)
    add_yes(parser)
    add_connection(parser)
    add_json(parser)
    parser.epilog = "examples:\n  edb keys delete my_app\n  edb keys delete my_app --yes --json"


def run(options: argparse.Namespace) -> int:
    """Delete the class key."""
    name = options.key_name
    confirm(options, f"{name}: delete this class key and take it away from every device?")
    with key_service(options) as service:
        answer = service.delete(name)
    if options.json:
        print_json(answer)
    else:
        until = answer.get("recoverable_until") or "the vault lets it go"
        print_line(f"{name}: deleted; `edb keys recover {name}` brings it back until {until}")
    return DONE

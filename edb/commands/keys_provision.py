"""``edb keys provision``: make a new class key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edb.key_service import key_service
from edb.options import add_connection, add_json, add_key_name
from shared.command_line.output import DONE, print_json, print_line

if TYPE_CHECKING:
    import argparse

STRENGTHS = (128, 192, 256)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Make version 1 of a new class key from the service's own randomness; it never leaves in clear.\n\n"
        "Devices that the policy allows it get it with the distribution pass that this asks for."
    )
    add_key_name(parser)
    parser.add_argument(
        "--strength", type=int, choices=STRENGTHS, default=256, help="bits; %(default)s by default"
    )
    add_connection(parser)
    add_json(parser)
    parser.epilog = (
        "examples:\n  edb keys provision my_app\n  edb keys provision my_app --strength 128 --json"
    )


def run(options: argparse.Namespace) -> int:
    """Make the class key."""
    with key_service(options) as service:
        answer = service.provision(options.key_name, strength=options.strength)
    if options.json:
        print_json(answer)
    else:
        print_line(f"{options.key_name}: version 1 was made, aes-gcm-{options.strength}")
    return DONE

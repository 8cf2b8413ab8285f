"""``edb keys recover``: recover a deleted class key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edb.key_service import key_service
from edb.options import add_connection, add_json, add_key_name
from shared.command_line.output import DONE, print_json, print_line

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_key_name(parser)
    add_connection(parser)
    add_json(parser)
    parser.epilog = "examples:\n  edb keys recover my_app\n  edb keys recover my_app --json"


def run(options: argparse.Namespace) -> int:
    """Recover the class key."""
    with key_service(options) as service:
        answer = service.recover(options.key_name)
    if options.json:
        print_json(answer)
    else:
        print_line(f"{options.key_name}: recovered")
    return DONE

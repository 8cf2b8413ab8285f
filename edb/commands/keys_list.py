"""``edb keys list``: the class keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edb.answers import ClassKey
from edb.key_service import key_service
from edb.options import add_connection, add_json
from edb.output import print_table
from shared.command_line.output import DONE, print_json

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--prefix", metavar="TEXT", help="only those whose name begins so")
    add_connection(parser)
    add_json(parser)
    parser.epilog = (
        "examples:\n"
        "  edb keys list --prefix vision_\n"
        "  edb keys list --json | jq -r '.keys[] | select(.floor > .version) | .key_name'    # revoked"
    )


def run(options: argparse.Namespace) -> int:
    """Show every class key."""
    with key_service(options) as service:
        found = list(service.keys(prefix=options.prefix))
    keys = [ClassKey.read(entry) for entry in found]
    if options.json:
        print_json({"keys": found})
        return DONE
    rows = [
        (key.name, key.version, key.floor, key.state, f"{key.algorithm}-{key.strength}")
        for key in sorted(keys, key=lambda key: key.name)
    ]
    print_table(("key", "version", "floor", "state", "algorithm"), rows, empty="there is no class key")
    return DONE

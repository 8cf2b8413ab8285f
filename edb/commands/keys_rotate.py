"""``edb keys rotate``: make the next version of a class key, and wait for the devices."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edb.key_service import key_service
from edb.options import add_connection, add_json, add_key_name, add_waiting
from edb.waiting import wait_for_devices, write_event
from shared.command_line.output import DONE, print_json, print_line

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Make the next version of a class key.\n\n"
        "Devices get it and keep the older versions, so that installed packages go on working. Build the\n"
        "package again; revoke the old version once nothing needs it."
    )
    add_key_name(parser)
    add_waiting(parser, what="wait until every device that holds the key has acknowledged the new version")
    add_connection(parser)
    add_json(parser)
    parser.epilog = (
        "examples:\n"
        "  edb keys rotate my_app --wait\n"
        "  edb keys rotate my_app --wait --json | jq -c 'select(.stage == \"failed\")'\n"
        "\n"
        "notes:\n"
        "  --wait only reads: interrupt it when you like; `edb keys show my_app --wait` goes on.\n"
        "  With --wait, --json writes a line for each change and `done` or `timeout` as the last one."
    )


def run(options: argparse.Namespace) -> int:
    """Rotate, and wait if asked to."""
    with key_service(options) as service:
        answer = service.rotate(options.key_name)
        if options.json and options.wait:
            write_event("rotated", answer)
        elif options.json:
            print_json(answer)
        else:
            print_line(f"{options.key_name}: version {answer.get('version')} was made")
        return wait_for_devices(service, options.key_name, options) if options.wait else DONE

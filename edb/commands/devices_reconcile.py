"""``edb devices reconcile``: have devices looked at now, and not with the next pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edb.answers import Fields
from edb.key_service import key_service
from edb.options import add_connection, add_json
from shared.command_line.output import DONE, print_json, print_line
from shared.types import parse_device_id
from shared.wire.values import MAX_DEVICES

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Have devices reconciled at once.\n\n"
        "Every pass takes up again what is not as it should be. This is for those who do not want to wait\n"
        "for it, after a message was set aside or a device was put right. `edb devices show` tells what was\n"
        "decided."
    )
    parser.add_argument("device_ids", metavar="DEVICE_ID", nargs="+", help="a device, or DEVICE/MODULE")
    add_connection(parser)
    add_json(parser)
    parser.epilog = (
        "examples:\n"
        "  edb devices reconcile edge-01 edge-02/agent\n"
        "  edb audit tail --outcome failed --json | jq -r '.record.device_id // empty' | sort -u \\\n"
        "    | xargs -r edb devices reconcile"
    )


def run(options: argparse.Namespace) -> int:
    """Ask for all of them, as many at once as the service takes."""
    device_ids = [parse_device_id(text, where="device id") for text in options.device_ids]
    queued = 0
    with key_service(options) as service:
        for start in range(0, len(device_ids), MAX_DEVICES):
            answer = service.reconcile(device_ids[start : start + MAX_DEVICES])
            queued += Fields(answer, where="answer").need("devices", int)
    if options.json:
        print_json({"devices": queued})
    else:
        print_line(f"{queued} on the queue")
    return DONE

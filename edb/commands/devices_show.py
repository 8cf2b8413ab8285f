"""``edb devices show``: what a device was released, what it reports, and what was decided about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edb.answers import Device
from edb.key_service import key_service
from edb.options import add_connection, add_json
from edb.output import MESSAGES, NOTHING, print_table
from shared.command_line.output import DONE, print_fields, print_json, print_line
from shared.rollout import bucket
from shared.types import parse_device_id

if TYPE_CHECKING:
    import argparse

KEY_NOT_BOUND = "key_not_bound"
"""Reason of a device that reports another key than its releases are for."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("device_id", metavar="DEVICE_ID", help="the device, or DEVICE/MODULE")
    add_connection(parser)
    add_json(parser)
    parser.epilog = "examples:\n  edb devices show edge-01\n  edb devices show edge-01/my-module --json"


def run(options: argparse.Namespace) -> int:
    """Show the device."""
    device_id = parse_device_id(options.device_id, where="device id")
    with key_service(options) as service:
        document = service.device(device_id)
    if options.json:
        print_json(document)
        return DONE
    device = Device.read(document)
    if device.reason == KEY_NOT_BOUND:
        MESSAGES.say(
            f"{device.device_id}: it reports another key than it is bound to, without a certificate for it",
            hint="ask the device itself (cpk-tool pub-key --json | jq -r .fingerprint), and then "
            f"edb devices rebind {device.device_id} --key FINGERPRINT",
        )
    print_line(device.device_id)
    print_fields({name: NOTHING if value is None else value for name, value in _fields(device).items()})
    if device.released is not None or device.reported is not None:
        print_line("")
        head = ("key", "released", "floor", "reported", "state", "error")
        print_table(head, _rows(device), empty="it holds no class key")
    return DONE


def _fields(device: Device) -> dict[str, object]:
    released, reported = device.released, device.reported
    return {
        "bucket": bucket(device.device_id),
        "hub status": device.status,
        "state": device.state,
        "reason": device.reason,
        "since": device.at,
        "bound to key": None if released is None else released.fingerprint,
        "reports key": device.reported_key,
        "release": None if released is None else released.sequence,
        "issued": None if released is None else released.issued_at,
        "expires": None if released is None else released.expires_at,
        "acknowledged": None if reported is None else reported.sequence,
        "stale": "yes" if device.stale else "no",
    }


def _rows(device: Device) -> list[tuple[object, ...]]:
    released = {} if device.released is None else device.released.keys
    floors = {} if device.released is None else device.released.floors
    reported = {} if device.reported is None else device.reported.keys
    rows: list[tuple[object, ...]] = []
    for name in sorted({*released, *floors, *reported}):
        report = reported.get(name)
        told = (None, None, None) if report is None else (report.version, report.state, report.error)
        rows.append((name, released.get(name), floors.get(name), *told))
    return rows

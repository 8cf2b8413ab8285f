"""``edb devices list``: the devices, and what was decided about them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edb.answers import Device
from edb.key_service import key_service
from edb.options import add_connection, add_json, key_name
from edb.output import print_table
from shared.command_line.output import DONE, print_json

if TYPE_CHECKING:
    import argparse

STATES = ("released", "denied", "over_budget", "quarantined")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("--state", choices=STATES, help="only those in this state")
    parser.add_argument("--reason", metavar="CODE", help="only those for this reason")
    parser.add_argument(
        "--key", type=key_name, metavar="KEY_NAME", help="only those that hold this class key"
    )
    parser.add_argument("--stale", action="store_true", help="only those that are silent for too long")
    add_connection(parser)
    add_json(parser)
    parser.epilog = (
        "examples:\n"
        "  edb devices list --state denied\n"
        "  edb devices list --state denied --reason certificate_expired --json | jq -r '.devices[].device_id'"
    )


def run(options: argparse.Namespace) -> int:
    """Show every device that is asked for."""
    with key_service(options) as service:
        found = service.devices(state=options.state, reason=options.reason, key=options.key)
        devices = [(Device.read(entry), entry) for entry in found]
    if options.stale:
        devices = [(device, entry) for device, entry in devices if device.stale]
    if options.json:
        print_json({"devices": [entry for _, entry in devices]})
        return DONE
    head = ("device", "state", "reason", "keys", "since", "acknowledged")
    print_table(head, [_row(device) for device, _ in devices], empty="no device")
    return DONE


def _row(device: Device) -> tuple[object, ...]:
    keys = {} if device.released is None else device.released.keys
    shown = " ".join(f"{name}:{version}" for name, version in sorted(keys.items())) or None
    return (device.device_id, device.state, device.reason, shown, device.at, _acknowledged(device))


def _acknowledged(device: Device) -> str | None:
    if device.released is None:
        return None
    if device.stale:
        return "stale"
    told = device.reported
    return "yes" if told is not None and told.sequence >= device.released.sequence else "no"

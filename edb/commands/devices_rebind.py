"""``edb devices rebind``: bind a device to the key that it reports now, once a person has compared them."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from edb.answers import Device, Fields
from edb.key_service import key_service
from edb.options import add_connection, add_json, ask
from edb.output import MESSAGES, NOTHING
from shared.command_line.output import DONE, print_json, print_line
from shared.errors import Conflict
from shared.types import parse_device_id

if TYPE_CHECKING:
    from edb.key_service import KeyService

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")
_HINT = "--key says which key it is: on the device, cpk-tool pub-key --json | jq -r .fingerprint"


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Bind a device to the key that it reports now.\n\n"
        "Its first release binds a device to its key. With another key, and no valid certificate for that\n"
        "one, it is denied as key_not_bound. Whoever copied its connection string can report a key of his\n"
        "own, so compare the fingerprint with the one that the device itself shows, by another way than the\n"
        "cloud: `cpk-tool pub-key --json | jq -r .fingerprint` or `device-agent check` there.\n\n"
        "Takes the function app's master key: whoever rebinds a device decides who gets its keys."
    )
    parser.add_argument("device_id", metavar="DEVICE_ID", help="the device, or DEVICE/MODULE")
    parser.add_argument(
        "--key",
        type=_fingerprint,
        metavar="FINGERPRINT",
        help="the key's SHA-256, 64 hex digits, as the device shows it; asked for on a terminal if left out",
    )
    add_connection(parser)
    add_json(parser)
    parser.epilog = (
        "examples:\n"
        "  edb devices rebind edge-01\n"
        '  edb devices rebind edge-01 --key "$(ssh edge-01 cpk-tool pub-key --json | jq -r .fingerprint)"'
    )


def run(options: argparse.Namespace) -> int:
    """Show both keys and ask, or take the one that is named; then bind."""
    device_id = parse_device_id(options.device_id, where="device id")
    with key_service(options) as service:
        fingerprint = options.key or _confirmed(service, device_id)
        answer = service.rebind(device_id, fingerprint)
    if options.json:
        print_json(answer)
    elif Fields(answer, where="answer").get("replaces", str) is None:
        print_line(f"{device_id}: is bound to that key already")
    else:
        print_line(f"{device_id}: is bound to the key {fingerprint} with its next release")
    return DONE


def _confirmed(service: KeyService, device_id: str) -> str:
    """Return the key that the device reports, once somebody said that it is the device's."""
    device = Device.read(service.device(device_id))
    if device.reported_key is None:
        raise Conflict(f"{device_id}: reports no key", code="key_not_reported")
    bound = NOTHING if device.released is None else device.released.fingerprint or NOTHING
    MESSAGES.say(f"{device_id}: bound to     {bound}")
    MESSAGES.say(f"{device_id}: reports now  {device.reported_key}")
    ask("is the second one what the device itself shows, and should it be bound to it?", hint=_HINT)
    return device.reported_key


def _fingerprint(text: str) -> str:
    """Read a fingerprint as tools print it: hex digits of either case, with colons or without."""
    digits = text.replace(":", "").lower()
    if _FINGERPRINT.fullmatch(digits):
        return digits
    raise argparse.ArgumentTypeError("expected 64 hex digits, the SHA-256 of a public key")

"""``edb plan``: how long a distribution will take at least, what it costs, and which limit binds; offline."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Final

from edb.options import add_json
from edb.output import print_table
from shared.command_line.output import DONE, UsageError, print_json, print_line
from shared.twin.budget import DESIRED_BUDGET
from shared.twin.capacity import (
    SHARE_PERCENT,
    HubTier,
    desired_bytes,
    distribution,
    keys_that_fit,
    limits_of,
    listing_pass,
)

if TYPE_CHECKING:
    from shared.twin.capacity import Effort

WRAPPED_BYTES: Final = {"rsa2048": 256, "rsa3072": 384, "rsa4096": 512, "p256": 113, "x25519": 80}
"""Length of a wrapped AES-256 key by the kind of device key: RSA's modulus; HPKE's share, key and tag."""

_MOST = 100_000_000
_PERCENT = 100
_SHARE_HELP = (
    "how much of the hub's rates the key service takes, its EDB_IOT_HUB_SHARE_PERCENT "
    f"(default: {SHARE_PERCENT})"
)


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Say how long distributing class keys to a fleet takes at least, what it costs in messages of the\n"
        "hub, and which limit binds. Nothing is asked of any service: the limits are those published for\n"
        "the tier. A rotation or a revocation gives every device that has the key a new release, as the\n"
        "first distribution does."
    )
    add = parser.add_argument
    add("--devices", type=_count, required=True, metavar="N", help="devices in the fleet")
    add("--keys", type=_count, default=1, metavar="K", help="class keys of each device (default: 1)")
    add("--tier", choices=[tier.value for tier in HubTier], default="S1", help="the hub's tier (default: S1)")
    add("--units", type=_count, default=1, metavar="U", help="the hub's units (default: 1)")
    add("--share", type=_percent, default=SHARE_PERCENT, metavar="PERCENT", help=_SHARE_HELP)
    add(
        "--device-key",
        choices=list(WRAPPED_BYTES),
        default="rsa2048",
        help="kind of the devices' keys (default: rsa2048)",
    )
    add_json(parser)
    parser.epilog = (
        "examples:\n"
        "  edb plan --devices 100000 --keys 10 --tier S2 --units 3\n"
        "  edb plan --devices 1000000 --tier S3 --units 2 --json | jq .rotation.seconds"
    )


def run(options: argparse.Namespace) -> int:
    """Print the plan."""
    wrapped = WRAPPED_BYTES[options.device_key]
    room = keys_that_fit(wrapped)
    if options.keys > room:
        raise UsageError(
            f"--keys: expected at most {room}, which fit into {DESIRED_BUDGET} bytes of desired for a "
            f"{options.device_key} device key, found {options.keys}"
        )
    if options.tier == HubTier.F1.value and options.units != 1:
        raise UsageError(f"--units: a hub of the free tier has 1, found {options.units}")
    limits = limits_of(HubTier(options.tier), options.units).share(options.share)
    work = distribution(devices=options.devices, keys=options.keys, wrapped_bytes=wrapped, limits=limits)
    unchanged = listing_pass(devices=options.devices, limits=limits)
    efforts = {"first distribution": work, "rotation": work, "unchanged pass": unchanged}
    size = desired_bytes(options.keys, wrapped)
    if options.json:
        print_json(
            {
                "desired_bytes": size,
                "keys_that_fit": room,
                **{name.replace(" ", "_"): _document(effort) for name, effort in efforts.items()},
            }
        )
        return DONE
    print_table(
        ("what", "at least", "messages", "binding limit"),
        [
            (name, _duration(effort.duration), f"{effort.messages:,}", effort.binding)
            for name, effort in efforts.items()
        ],
        empty="",
    )
    print_line(
        f"desired: {size:,} of {DESIRED_BUDGET:,} bytes in each twin; {room} keys fit. "
        f"The hub takes {limits.messages:,} messages a day."
    )
    return DONE


def _document(effort: Effort) -> dict[str, object]:
    return {
        "seconds": effort.duration,
        "messages": effort.messages,
        "binding": effort.binding,
        "seconds_by_limit": effort.seconds,
    }


def _duration(seconds: float) -> str:
    """Return a duration as people say it: the two largest units."""
    whole = max(1, round(seconds))
    for size, name, below, below_name in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if whole >= size:
            return f"{whole // size} {name} {whole % size // below} {below_name}"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"  # noqa: PLR2004 - a minute


def _percent(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text[:4]) <= _PERCENT:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 to {_PERCENT}, found {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text[:12]) <= _MOST:
        raise argparse.ArgumentTypeError(f"expected a whole number of 1 to {_MOST}, found {text!r}")
    return int(text)

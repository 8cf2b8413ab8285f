"""``cpk-tool pub-key``: the device's public key, as the key services want it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from cpk_tool.cpm_client import add_socket, device_public_key
from cpk_tool.options import add_json
from cpk_tool.output import DONE, print_json, print_line
from shared.encoding import encode_base64
from shared.wire.cpm_channel import connect

if TYPE_CHECKING:
    import argparse

_TIMEOUT_SECONDS = 30.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "--format",
        choices=("base64", "pem", "der"),
        default="base64",
        help="of the SubjectPublicKeyInfo; by default base64 on one line",
    )
    add_socket(parser)
    add_json(parser)
    parser.epilog = (
        "examples:\n"
        "  cpk-tool pub-key --format pem > device.pem\n"
        "  cpk-tool pub-key --json | jq -r .fingerprint"
    )


def run(options: argparse.Namespace) -> int:
    """Print the device's public key; without ``--json`` nothing else."""
    with connect(options.socket, timeout=_TIMEOUT_SECONDS) as cpm:
        key = device_public_key(cpm)
    spki, text = key.spki, encode_base64(key.spki)
    if options.json:
        print_json(
            {"result": "ok", "kind": key.kind.value, "spki": text, "fingerprint": key.fingerprint.hex()}
        )
        return DONE
    if options.format == "der":
        sys.stdout.buffer.write(spki)
        return DONE
    lines = [text]
    if options.format == "pem":
        lines = [text[start : start + 64] for start in range(0, len(text), 64)]
        lines = ["-----BEGIN PUBLIC KEY-----", *lines, "-----END PUBLIC KEY-----"]
    for line in lines:
        print_line(line)
    return DONE

"""The CPM of this device, as the commands that talk to it need it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from shared.errors import FormatError
from shared.public_keys import PublicKey, load_public_key
from shared.wire.cpm_channel import DEFAULT_SOCKET, SOCKET_VARIABLE

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from shared.wire.cpm_channel import CpmConnection


def add_socket(parser: argparse.ArgumentParser) -> None:
    """Declare ``--socket``."""
    parser.add_argument(
        "--socket",
        metavar="PATH",
        default=os.environ.get(SOCKET_VARIABLE, DEFAULT_SOCKET),
        help=f"the CPM's socket; by default ${SOCKET_VARIABLE}, else {DEFAULT_SOCKET}",
    )


def installed_packages(cpm: CpmConnection) -> dict[str, Mapping[str, object]]:
    """Ask a CPM what is installed; by id, in the order of the ids.

    Raises:
        FormatError: What it answers is no map of packages.
    """
    packages = cpm.call("list").get("packages")
    if not isinstance(packages, dict) or not all(isinstance(entry, dict) for entry in packages.values()):
        raise FormatError("cpm: list: expected a map of packages, found something else")
    return dict(sorted(packages.items()))


def device_public_key(cpm: CpmConnection) -> PublicKey:
    """Ask a CPM for its device key; the reference's CPM has none before its first ping.

    Raises:
        FormatError: What it answers is no public key.
    """
    cpm.call("ping")
    spki = cpm.call("device_public_key").get("spki")
    if not isinstance(spki, bytes):
        raise FormatError("cpm: device_public_key: expected spki as bytes, found something else")
    return load_public_key(spki, where="cpm: device_public_key")

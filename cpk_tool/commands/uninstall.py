"""``cpk-tool uninstall``: take a package away from the CPM of this device."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cpk_tool.cpm_client import add_socket
from cpk_tool.options import add_json
from cpk_tool.output import DONE, print_json, print_line
from shared.wire.cpm_channel import connect

if TYPE_CHECKING:
    import argparse

_TIMEOUT_SECONDS = 60.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Remove a package from the CPM of this device.\n\n"
        "The CPM remembers the package's version and never installs an older one."
    )
    parser.add_argument("application_id", metavar="ID", help="the application, as `cpk-tool list` shows it")
    add_socket(parser)
    add_json(parser)
    parser.epilog = "example:\n  cpk-tool uninstall my_app"


def run(options: argparse.Namespace) -> int:
    """Remove an installed package."""
    with connect(options.socket, timeout=_TIMEOUT_SECONDS) as cpm:
        cpm.call("uninstall", {"cp_id": options.application_id})
    if options.json:
        print_json({"result": "ok", "cp_id": options.application_id})
    else:
        print_line(f"{options.application_id}: uninstalled")
    return DONE

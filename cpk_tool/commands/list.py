"""``cpk-tool list``: what the CPM of this device has installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cpk_tool.cpm_client import add_socket, installed_packages
from cpk_tool.options import add_json
from cpk_tool.output import DONE, print_json, print_line, print_table
from shared.wire.cpm_channel import connect

if TYPE_CHECKING:
    import argparse

_TIMEOUT_SECONDS = 30.0


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_socket(parser)
    add_json(parser)
    parser.epilog = "examples:\n  cpk-tool list\n  cpk-tool list --json | jq -r '.packages | keys[]'"


def run(options: argparse.Namespace) -> int:
    """Show every installed package."""
    with connect(options.socket, timeout=_TIMEOUT_SECONDS) as cpm:
        packages = installed_packages(cpm)
    if options.json:
        print_json({"result": "ok", "packages": packages})
    elif packages:
        columns = ("version", "state", "size", "name")
        rows = [(cp_id, *(entry.get(name, "") for name in columns)) for cp_id, entry in packages.items()]
        print_table(("id", "version", "state", "bytes", "name"), rows)
    else:
        print_line("no package is installed")
    return DONE

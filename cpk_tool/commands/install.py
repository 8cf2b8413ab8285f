"""``cpk-tool install``: hand a package to the CPM, which verifies and installs it or does neither."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cpk_tool.cpm_client import add_socket
from cpk_tool.options import add_json
from cpk_tool.output import DONE, print_json, print_line
from cpk_tool.progress import watching
from shared.cpk.package import inspect_package
from shared.wire.cpm_channel import connect

if TYPE_CHECKING:
    import argparse

_TIMEOUT_SECONDS = 3600.0  # decrypting and sealing gigabytes takes its time


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("-p", "--package", type=Path, required=True, metavar="FILE", help="the package")
    add_socket(parser)
    add_json(parser)
    parser.epilog = (
        "exit status: 0 installed, 1 malformed or failed, 3 refused by the CPM\n\n"
        "example:\n  cpk-tool install -p app.cpk"
    )


def run(options: argparse.Namespace) -> int:
    """Install a package; its file is passed to the CPM open, not copied."""
    with options.package.open("rb", buffering=0) as file:
        package = inspect_package(file, os.fstat(file.fileno()).st_size)
        with connect(options.socket, timeout=_TIMEOUT_SECONDS) as cpm:
            cpm.call("ping")
            with watching(file, options.package.name, package.size):
                installed = cpm.call("install", fds=[file.fileno()])
    if options.json:
        print_json({"result": "ok", **installed})
    else:
        manifest = package.manifest
        print_line(f"{manifest.id} {manifest.payload.version}: installed from {options.package}")
    return DONE

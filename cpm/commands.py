"""The commands that talk to a running CPM: ``run``, ``status``, ``list`` and ``uninstall``."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shared.wire.cpm_channel import CpmConnection, connect

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

STDIN, STDOUT, STDERR = 0, 1, 2

MAX_BACKOFF_SECONDS = 60.0
"""Longest wait before a workload is restarted."""

CALL_SECONDS = 60.0
"""How long a command waits for an answer; ``run`` waits as long as the workload takes."""


def run(arguments: argparse.Namespace) -> int:
    """Run an installed package with this command's own standard input, output and error, or stream it.

    A workload that is restarted is the version that is installed by then, and its standard input is empty:
    what the run before took of it is gone.

    Returns:
        The workload's last exit status; 0 after a stream.
    """
    if arguments.stream:
        with connect(arguments.socket, timeout=None) as cpm:
            cpm.call("stream", {"cp_id": arguments.app_id}, fds=(STDOUT,))
        return 0
    wait = arguments.backoff
    with connect(arguments.socket, timeout=None) as cpm, Path(os.devnull).open("rb") as empty:
        status = _run_once(cpm, arguments, stdin=STDIN)
        restarts = 0
        while status != 0 and (arguments.restart is None or restarts < arguments.restart):
            print(f"cpm: status {status}, restart in {wait:g} s", file=sys.stderr)  # noqa: T201 - beside the workload's own
            time.sleep(wait)
            wait = min(2 * wait, MAX_BACKOFF_SECONDS)
            restarts += 1
            status = _run_once(cpm, arguments, stdin=empty.fileno())
    return status


def _run_once(cpm: CpmConnection, arguments: argparse.Namespace, *, stdin: int) -> int:
    reply = cpm.call(
        "run",
        {"cp_id": arguments.app_id, "arguments": arguments.arguments},
        fds=(stdin, STDOUT, STDERR),
    )
    status: Any = reply["exit_status"]
    return int(status)


def status(arguments: argparse.Namespace) -> int:
    """Show what the CPM is, which keys it holds and which packages are installed."""
    reply: Mapping[str, Any] = _call(arguments, "status")
    if arguments.json:
        _print_json(reply)
        return 0
    _print(f"device    {reply['device_id']} in {reply['audience']}")
    _print(f"key       {reply['fingerprint'].hex()}")
    _print(f"sandbox   {reply['sandbox']}")
    _print(f"sequence  {reply['sequence']}" + ("" if reply["latched_v2"] else " (no release applied yet)"))
    for name, versions in sorted(reply["keys"].items()):
        held = ", ".join(f"{held['version']} (kcv {held['kcv'].hex()})" for held in versions)
        _print(f"class key {name}: version {held}")
    for name, floor in sorted(reply["floors"].items()):
        _print(f"floor     {name}: version {floor}")
    _print_packages(reply["packages"])
    used, quota = reply["storage"]["used"], reply["storage"]["quota"]
    _print(f"storage   {used} bytes used" + ("" if quota is None else f" of {quota}"))
    return 0


def list_packages(arguments: argparse.Namespace) -> int:
    """Show the installed packages."""
    reply: Mapping[str, Any] = _call(arguments, "list")
    if arguments.json:
        _print_json(reply)
    else:
        _print_packages(reply["packages"])
    return 0


def uninstall(arguments: argparse.Namespace) -> int:
    """Remove an installed package; its version floor stays."""
    _call(arguments, "uninstall", {"cp_id": arguments.app_id})
    if arguments.json:
        _print_json({"uninstalled": arguments.app_id})
    return 0


def _call(
    arguments: argparse.Namespace, operation: str, fields: Mapping[str, object] | None = None
) -> dict[str, object]:
    cpm: CpmConnection
    with connect(arguments.socket, timeout=CALL_SECONDS) as cpm:
        return cpm.call(operation, fields)


def _print_packages(packages: Mapping[str, Mapping[str, object]]) -> None:
    for cp_id, package in sorted(packages.items()):
        _print(
            f"package   {cp_id}: {package['name']} {package['version']}, {package['state']}, "
            f"{package['size']} bytes"
        )


def _print_json(value: object) -> None:
    _print(json.dumps(_jsonable(value), sort_keys=True))


def _jsonable(value: object) -> object:
    """Return the value with bytes as hex, as the twin has them."""
    match value:
        case bytes():
            return value.hex()
        case dict():
            return {name: _jsonable(item) for name, item in value.items()}
        case list():
            return [_jsonable(item) for item in value]
        case _:
            return value


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")

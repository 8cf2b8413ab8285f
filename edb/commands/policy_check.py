"""``edb policy check``: whether the function app would load a policy, and what it hardly means."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from edb.options import add_json
from edb.policy_files import findings_document, read_policy, warn_of
from shared.command_line.output import DONE, FAILED, print_json, print_line
from shared.policy.linting import lint_policy

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Check a policy file: whether the key service would load it, and what it hardly means.\n"
        "\n"
        "A fault is told with its JSON pointer. Warnings: rules that never match or are shadowed by an\n"
        "earlier one, rules for every class key, RSA1_5, devices that need no certificate or not their own."
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the policy")
    parser.add_argument("--strict", action="store_true", help="end with status 1 if there is a warning")
    add_json(parser)
    parser.epilog = (
        "examples:\n"
        "  edb policy check policy.json\n"
        "  edb policy check policy.json --strict --json | jq '.warnings[]'    # in a pipeline"
    )


def run(options: argparse.Namespace) -> int:
    """Check the policy."""
    policy, _ = read_policy(options.file)
    findings = lint_policy(policy, at=datetime.now(UTC))
    failed = options.strict and bool(findings)
    if options.json:
        print_json(
            {
                "result": "failed" if failed else "ok",
                "id": policy.id,
                "serial": policy.serial,
                "rules": len(policy.rules),
                "sha256": policy.digest.hex(),
                "warnings": findings_document(findings),
            }
        )
    else:
        warn_of(findings, options.file)
        print_line(
            f"{options.file}: policy {policy.id} serial {policy.serial}, {len(policy.rules)} rules, "
            f"sha256 {policy.digest.hex()}"
        )
    return FAILED if failed else DONE

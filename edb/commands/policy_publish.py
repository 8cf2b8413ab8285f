"""``edb policy publish``: put a policy into force, in the place of the one that was looked at."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from edb.key_service import key_service
from edb.options import add_connection, add_json
from edb.policy_files import findings_document, read_policy, warn_of
from shared.command_line.output import DONE, print_json, print_line
from shared.errors import VerificationError
from shared.policy.linting import lint_policy

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Put a policy into force.\n\n"
        "It is checked here first, as `edb policy check` does. The service takes it only if its serial is\n"
        "higher than any before, and only in the place of the policy that this command found in force, or\n"
        "that --etag names: of two who publish at once, the second is told."
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="the policy")
    parser.add_argument(
        "--etag", metavar="ETAG", help="the policy to replace, as `edb policy show --json` told; else today's"
    )
    parser.add_argument("--strict", action="store_true", help="publish nothing that there is a warning of")
    add_connection(parser)
    add_json(parser)
    parser.epilog = (
        "examples:\n"
        "  edb policy publish policy.json\n"
        "  edb policy publish policy.json --strict --json    # in a pipeline"
    )


def run(options: argparse.Namespace) -> int:
    """Check the policy and publish it."""
    policy, data = read_policy(options.file)
    findings = lint_policy(policy, at=datetime.now(UTC))
    if not options.json:
        warn_of(findings, options.file)
    if options.strict and findings:
        codes = ", ".join(sorted({each.code for each in findings}))
        raise VerificationError(
            f"{options.file}: expected no warning, found {codes}",
            code="policy_questionable",
            hint=f"edb policy check {options.file}",
        )
    with key_service(options) as service:
        etag = options.etag if options.etag is not None else service.policy_etag()
        answer = service.publish_policy(data, etag=etag)
    if answer.get("sha256") != policy.digest.hex():
        raise VerificationError(
            f"{options.file}: the service took a document with another sha256 than {policy.digest.hex()}",
            code="digest_mismatch",
        )
    if options.json:
        print_json({**answer, "warnings": findings_document(findings)})
    else:
        print_line(f"policy {policy.id} serial {policy.serial} is in force, sha256 {policy.digest.hex()}")
    return DONE

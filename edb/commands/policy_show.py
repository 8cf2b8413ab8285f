"""``edb policy show``: the policy that is in force, byte for byte."""

from __future__ import annotations

import hashlib
import sys
from typing import TYPE_CHECKING

from edb.key_service import key_service
from edb.options import add_connection, add_json
from edb.output import on_terminal
from shared import strict_json
from shared.command_line.output import DONE, print_json, print_line
from shared.errors import VerificationError

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Print the policy that is in force, byte for byte.\n\n"
        "Its sha256 is what releases and audit records name."
    )
    add_connection(parser)
    add_json(parser)
    parser.epilog = (
        "examples:\n"
        "  edb policy show > policy.json\n"
        "  diff <(edb policy show) policy.json\n"
        "  edb policy show --json | jq '{id: .policy.id, serial, sha256}'"
    )


def run(options: argparse.Namespace) -> int:
    """Print the policy."""
    with key_service(options) as service:
        policy = service.policy()
    digest = hashlib.sha256(policy.body).hexdigest()
    if digest != policy.sha256:
        raise VerificationError(
            f"policy: expected a document with sha256 {policy.sha256}, found {digest}", code="digest_mismatch"
        )
    document = strict_json.loads(policy.body, where="answer: policy")
    if options.json:
        print_json({"serial": policy.serial, "sha256": digest, "etag": policy.etag, "policy": document})
    elif on_terminal():  # which would obey what is escaped here
        for line in policy.body.decode().removesuffix("\n").split("\n"):
            print_line(line.rstrip("\r").replace("\t", "  "))
    else:
        sys.stdout.buffer.write(policy.body)
        sys.stdout.buffer.flush()
    return DONE

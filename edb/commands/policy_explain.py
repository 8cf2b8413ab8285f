"""``edb policy explain``: which rule allows a device or build machine a class key, or what fails and how."""

from __future__ import annotations

import argparse
import json
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from edb.judging import judge_build_machine, judge_device
from edb.options import add_json, key_name
from edb.policy_files import read_limited, read_policy
from edb.twin_file import parse_twin
from edb.verdict_tree import judgement_document, print_judgement
from shared.certificate_paths import MAX_TRUST_BYTES, TrustStore
from shared.certificates import MAX_CHAIN_BYTES, load_certificates
from shared.command_line.output import DONE, REFUSED, UsageError, print_json
from shared.errors import FormatError
from shared.policy.document import Operation

if TYPE_CHECKING:
    from edb.judging import Judgement
    from shared.policy.document import Policy

_MAX_TWIN_BYTES = 1 << 20
_CLAIMABLE = ("caller", "attestation")


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.description = (
        "Say whether a policy allows a device or a build machine a class key, and why.\n\n"
        "Every rule is shown with every condition, what was expected and what was found. Nothing is asked\n"
        "of the key service: the twin comes from a file, the certificate is verified here."
    )
    add = parser.add_argument
    add("file", type=Path, metavar="FILE", help="the policy")
    add("--key", type=key_name, required=True, metavar="KEY_NAME", help="the class key")
    who = parser.add_mutually_exclusive_group(required=True)
    who.add_argument(
        "--device", type=Path, metavar="FILE", help="a device's twin as JSON; - is standard input"
    )
    who.add_argument("--build", type=Path, metavar="FILE", help="a build machine's certificates, leaf first")
    add(
        "--operation",
        choices=[operation.value for operation in Operation],
        help="what is asked for; distribute with --device and wrap with --build, and nothing else",
    )
    add("--trust", type=Path, metavar="FILE", help="PEM roots that certificates must lead to; else none hold")
    add("--at", type=_time, metavar="TIME", help="when, as 2030-01-31T00:00:00Z; now by default")
    add(
        "--claim",
        type=_claim,
        action="append",
        default=[],
        metavar="CLAIM=VALUE",
        help="with --build: what the platform would vouch for, as caller.entra_name=builds; JSON or text",
    )
    add_json(parser)
    parser.epilog = (
        "examples:\n"
        "  edb policy explain policy.json --device twin.json --key my_app --trust fleet-ca.pem\n"
        "  az iot hub device-twin show -n my-hub -d edge-01 |\n"
        "      edb policy explain policy.json --device - --key my_app --trust fleet-ca.pem\n"
        "  edb policy explain policy.json --build build.pem --key my_app --trust fleet-ca.pem --json\n"
        "\n"
        "exit status:\n"
        "  0 allowed, 3 denied"
    )


def run(options: argparse.Namespace) -> int:
    """Explain the decision."""
    fitting = Operation.DISTRIBUTE if options.device is not None else Operation.WRAP
    if options.operation not in {None, fitting.value}:
        raise UsageError(f"--operation: expected {fitting.value}, for that is what is decided about it")
    if options.claim and fitting is not Operation.WRAP:
        raise UsageError("--claim: expected with --build only; a device's claims come from its twin")
    policy, _ = read_policy(options.file)
    judgement = _judge(options, policy)
    if options.json:
        print_json(judgement_document(judgement))
    else:
        print_judgement(judgement)
    return DONE if judgement.denial is None else REFUSED


def _judge(options: argparse.Namespace, policy: Policy) -> Judgement:
    at = options.at if options.at is not None else datetime.now(UTC)
    trust = TrustStore(roots=())
    if options.trust is not None:
        roots = read_limited(options.trust, most=MAX_TRUST_BYTES)
        trust = TrustStore.from_pem(roots, where=str(options.trust))
    if options.device is not None:
        twin = parse_twin(_read_twin(options.device), where=str(options.device))
        return judge_device(twin, options.key, policy=policy, trust=trust, at=at)
    chain = load_certificates(read_limited(options.build, most=MAX_CHAIN_BYTES), where=str(options.build))
    return judge_build_machine(
        chain, options.key, more_claims=_grouped(options.claim), policy=policy, trust=trust, at=at
    )


def _read_twin(path: Path) -> bytes:
    if path != Path("-"):
        return read_limited(path, most=_MAX_TWIN_BYTES)
    data = sys.stdin.buffer.read(_MAX_TWIN_BYTES + 1)
    if len(data) > _MAX_TWIN_BYTES:
        raise FormatError(f"standard input: expected at most {_MAX_TWIN_BYTES} bytes, found more")
    return data


def _time(text: str) -> datetime:
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError as error:
        raise argparse.ArgumentTypeError("expected a time in UTC, as 2030-01-31T00:00:00Z") from error


def _claim(text: str) -> tuple[str, str, object]:
    """Read ``GROUP.NAME=VALUE``; a value that is no JSON scalar is text."""
    path, equals, value = text.partition("=")
    group, dot, name = path.partition(".")
    if not equals or not dot or not name or group not in _CLAIMABLE:
        names = " or ".join(_CLAIMABLE)
        raise argparse.ArgumentTypeError(f"expected GROUP.NAME=VALUE, the group {names}")
    try:
        parsed: object = json.loads(value)
    except ValueError:
        return group, name, value
    return group, name, parsed if isinstance(parsed, bool | int | float | str) else value


def _grouped(claims: list[tuple[str, str, object]]) -> dict[str, object]:
    groups: dict[str, dict[str, object]] = {}
    for group, name, value in claims:
        groups.setdefault(group, {})[name] = value
    return dict(groups)

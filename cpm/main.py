"""The ``cpm`` command: the Confidential Package Manager itself, and a few words to it.

Exit status: 0 done, 1 failed, 2 wrong usage or settings, 3 refused (verification, policy, no key);
``cpm run`` ends with its workload's status.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from typing import TYPE_CHECKING

from cpm.lean_start import leave_out_second_openssl
from shared import logs
from shared.command_line.lean_parser import LeanParser
from shared.errors import EdbError, KeyUnavailable, PolicyDenied, SettingsError, VerificationError
from shared.wire.cpm_channel import DEFAULT_SOCKET, SOCKET_VARIABLE

if TYPE_CHECKING:
    from collections.abc import Sequence

DONE, FAILED, USAGE, REFUSED = 0, 1, 2, 3
INTERRUPTED = 130

_KEY_TYPES = ("rsa2048", "rsa3072", "rsa4096", "p256", "x25519")
_SANDBOXES = ("auto", "bubblewrap", "landlock", "none")
_MAX_BACKOFF = 60
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: Without the program's name; the process's own by default.

    Returns:
        The exit status.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    # What follows "--" is the workload's; argparse would mix it with our own options.
    ours, workload = (
        (words[: words.index("--")], words[words.index("--") + 1 :]) if "--" in words else (words, [])
    )
    arguments = build_parser(os.environ.get(SOCKET_VARIABLE) or DEFAULT_SOCKET).parse_args(ours)
    arguments.arguments = workload
    try:
        return _dispatch(arguments)
    except EdbError as error:
        return _fail(error)
    except KeyboardInterrupt:
        return INTERRUPTED


def _dispatch(arguments: argparse.Namespace) -> int:
    """Do one command; what only one of them needs is imported by it alone, so that the others start fast."""
    if arguments.command == "serve":
        leave_out_second_openssl()  # before anything imports hashlib
        from cpm.hardening import harden  # noqa: PLC0415 - as above
        from cpm.serve import serve  # noqa: PLC0415 - as above
        from cpm.settings import read_settings  # noqa: PLC0415 - as above

        logs.configure(arguments.log_level)
        harden()  # first: reading the settings tries the sandbox, which has to work without new privileges
        serve(read_settings(arguments))
        return DONE
    if arguments.command == "reseal":
        from cpm.reseal import reseal  # noqa: PLC0415 - as above

        logs.configure("WARNING")
        print(reseal(arguments))
        return DONE
    from cpm import commands  # noqa: PLC0415 - as above

    command = {
        "run": commands.run,
        "status": commands.status,
        "list": commands.list_packages,
        "uninstall": commands.uninstall,
    }
    return command[arguments.command](arguments)


def _fail(error: EdbError) -> int:
    print(f"cpm: error: {error}", file=sys.stderr)
    if error.hint is not None:
        print(f"hint: {error.hint}", file=sys.stderr)
    if isinstance(error, SettingsError):
        return USAGE
    return REFUSED if isinstance(error, VerificationError | PolicyDenied | KeyUnavailable) else FAILED


def build_parser(socket: str) -> argparse.ArgumentParser:
    """Return the parser.

    Args:
        socket: The default for ``--socket``.
    """
    parser = LeanParser(
        prog="cpm", description="reference Confidential Package Manager: holds keys, runs sealed packages"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_serve(commands.add_parser("serve", help="be the CPM, in the foreground"), socket)
    _add_reseal(
        commands.add_parser("reseal", help="approve another state of the platform, for custody in a TPM")
    )
    run = commands.add_parser(
        "run",
        help="run an installed package, or stream it",
        usage="cpm run APP_ID [--restart on-failure[:N]] [--backoff SECONDS] [--socket PATH] "
        "[-- ARGUMENT ...]\n       cpm run --stream APP_ID [--socket PATH] | READER",
    )
    _add_run(run)
    status = commands.add_parser("status", help="show the device, its keys and its packages")
    listing = commands.add_parser("list", help="show the installed packages")
    uninstall = commands.add_parser("uninstall", help="remove an installed package")
    for command in (run, uninstall):
        command.add_argument("app_id", metavar="APP_ID", help="the package's id")
    for command in (status, listing, uninstall):
        command.add_argument("--json", action="store_true", help="answer in JSON")
    for command in (run, status, listing, uninstall):
        command.add_argument(
            "--socket", metavar="PATH", default=socket, help=f"the CPM's socket (${SOCKET_VARIABLE})"
        )
    return parser


def _add_run(parser: argparse.ArgumentParser) -> None:
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--stream",
        action="store_true",
        help="write the payload to standard output, a pipe, instead of running it",
    )
    how.add_argument(
        "--restart",
        metavar="on-failure[:N]",
        type=_restarts,
        default=0,
        help="run again, at most N times, after another exit status than 0; with an empty standard input",
    )
    parser.add_argument(
        "--backoff",
        metavar="SECONDS",
        type=_backoff,
        default=1.0,
        help="wait before the first restart; doubled for each further one, up to a minute",
    )


def _add_serve(parser: argparse.ArgumentParser, socket: str) -> None:
    _add_state(parser)
    parser.add_argument("--socket", metavar="PATH", default=socket, help="where to listen")
    parser.add_argument("--audience", metavar="NAME", required=True, help="the deployment")
    parser.add_argument("--device-id", metavar="ID", required=True, help="the device, or device/module")
    for option, text in (
        ("--release-key", "PEM public key, P-256, that signs releases"),
        ("--trust", "PEM roots whose certificates may sign packages"),
    ):
        parser.add_argument(option, metavar="FILE", required=True, action="extend", nargs="+", help=text)
    parser.add_argument(
        "--require-package-signature",
        action="store_true",
        help="refuse packages whose payload alone is signed",
    )
    parser.add_argument(
        "--allow-uid",
        metavar="UID",
        type=_uid,
        action="append",
        default=[],
        help="another user who may connect; the CPM's own and root always may",
    )
    parser.add_argument(
        "--workload-uid", metavar="UID", type=_uid, help="user and group of workloads (needs privilege)"
    )
    _add_custody(parser, default="software")
    parser.add_argument(
        "--sandbox",
        choices=_SANDBOXES,
        default="auto",
        help="what confines workloads; auto is the strongest that works here, and never none",
    )
    for option, text in (
        ("--allow-network", "a package whose workload may use the network"),
        ("--allow-stream", "a package whose payload clients may have in clear"),
    ):
        parser.add_argument(option, metavar="APP_ID", action="append", default=[], help=text)
    parser.add_argument(
        "--memory",
        metavar="BYTES",
        type=_size,
        default=4 << 30,
        help="address space of each process of a workload, with K, M or G; default 4G",
    )
    parser.add_argument(
        "--cpu-seconds", metavar="N", type=_count, help="processor time of each process; default no limit"
    )
    parser.add_argument(
        "--processes",
        metavar="N",
        type=_count,
        default=512,
        help="processes and threads of its user; default 512",
    )
    parser.add_argument(
        "--open-files",
        metavar="N",
        type=_count,
        default=1024,
        help="open files of each process of a workload; default 1024",
    )
    parser.add_argument(
        "--quota",
        metavar="BYTES",
        type=_size,
        help="most disk for sealed payloads, with K, M or G; default no limit but the disk's",
    )
    parser.add_argument(
        "--key-type", choices=_KEY_TYPES, default="rsa2048", help="of the device key, at the first start"
    )
    parser.add_argument("--log-level", choices=_LEVELS, default="INFO", type=str.upper)


def _add_reseal(parser: argparse.ArgumentParser) -> None:
    _add_state(parser)
    _add_custody(parser, default="tpm2")
    parser.add_argument(
        "--expect",
        metavar="N=HEX[,N=HEX...]",
        action="append",
        default=[],
        help="values that PCRs will hold beside those of now; repeat it for more states",
    )
    parser.set_defaults(key_type="rsa2048")


def _add_state(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--state", metavar="DIR", required=True, help="state folder; one CPM uses it at a time"
    )


def _add_custody(parser: argparse.ArgumentParser, *, default: str) -> None:
    parser.add_argument(
        "--custody",
        metavar="WHICH",
        default=default,
        help=f"what holds the device key: software, tpm2[:TCTI] or pkcs11:URI ({default})",
    )
    parser.add_argument(
        "--tpm-pcrs",
        metavar="N,N...",
        help="PCRs that the storage root is sealed to, or none; at the first start and for reseal (7)",
    )


def _uid(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) >= 2**32 - 1:
        raise argparse.ArgumentTypeError(f"expected a user's number, found {text!r}")
    return int(text)


def _count(text: str) -> int:
    if re.fullmatch(r"[1-9][0-9]{0,8}", text, re.ASCII) is None:
        raise argparse.ArgumentTypeError(f"expected a number from 1 to 999999999, found {text!r}")
    return int(text)


def _size(text: str) -> int:
    match = re.fullmatch(r"([1-9][0-9]{0,8})([KMG]?)", text, re.ASCII)
    if match is None:
        raise argparse.ArgumentTypeError(f"expected a size such as 512M, found {text!r}")
    return int(match[1]) * _UNITS[match[2]]


def _restarts(text: str) -> int | None:
    """Return how often to restart; None for no bound."""
    policy, colon, times = text.partition(":")
    if policy != "on-failure":
        raise argparse.ArgumentTypeError(f"expected on-failure or on-failure:N, found {text!r}")
    return _count(times) if colon else None


def _backoff(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= _MAX_BACKOFF:
        raise argparse.ArgumentTypeError(f"expected seconds from 0 to {_MAX_BACKOFF}, found {text!r}")
    return seconds


if __name__ == "__main__":
    sys.exit(main())

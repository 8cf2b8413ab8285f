"""Options that several commands take."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from shared.command_line.output import UsageError
from shared.errors import EdbError, FormatError
from shared.types import MAX_KEY_VERSION, KeyName, parse_key_name

_DEFAULT_TIMEOUT = 900.0


def add_json(parser: argparse.ArgumentParser) -> None:
    """Declare ``--json``."""
    parser.add_argument("--json", action="store_true", help="write JSON to standard output")


def add_connection(parser: argparse.ArgumentParser) -> None:
    """Declare how the key service is reached."""
    group = parser.add_argument_group("key service")
    group.add_argument("--url", metavar="URL", help="its address, https://HOST; by default $EDB_URL")
    group.add_argument(
        "--cloud", type=Path, metavar="FILE", help="a local cloud's cloud.json: its address, key and roots"
    )
    group.add_argument("--ca-file", type=Path, metavar="FILE", help="PEM roots to trust for TLS")
    group.add_argument(
        "--function-key-file",
        type=Path,
        metavar="FILE",
        help="holds the function key; by default $EDB_FUNCTION_KEY. Only its owner may read it",
    )
    group.add_argument(
        "--entra", metavar="SCOPE", help="also show an Entra ID token for this scope, as api://APP/.default"
    )
    group.add_argument(
        "--settings", type=Path, metavar="FILE", help="settings file; by default ~/.config/edb.toml"
    )


def add_key_name(parser: argparse.ArgumentParser) -> None:
    """Declare the class key's name."""
    parser.add_argument("key_name", type=key_name, metavar="KEY_NAME", help="the class key")


def add_waiting(parser: argparse.ArgumentParser, *, what: str) -> None:
    """Declare ``--wait`` and ``--timeout``."""
    parser.add_argument("--wait", action="store_true", help=what)
    parser.add_argument(
        "--timeout",
        type=positive_seconds,
        default=_DEFAULT_TIMEOUT,
        metavar="SECONDS",
        help="how long is waited at most; %(default)g by default",
    )


def add_yes(parser: argparse.ArgumentParser) -> None:
    """Declare ``--yes``."""
    parser.add_argument("-y", "--yes", action="store_true", help="do not ask whether it is meant")


def confirm(options: argparse.Namespace, question: str) -> None:
    """Ask on the terminal whether it is meant, unless ``--yes`` says so.

    Raises:
        UsageError: There is nobody to ask.
        EdbError: ``not_confirmed``.
    """
    if not options.yes:
        ask(question, hint="--yes says that it is meant")


def ask(question: str, *, hint: str) -> None:
    """Ask on the terminal.

    Args:
        question: To be answered with yes.
        hint: What to do where there is no terminal.

    Raises:
        UsageError: There is nobody to ask.
        EdbError: ``not_confirmed``.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(f"{question} nobody is there to ask", hint=hint)
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() not in {"y", "yes"}:
        raise EdbError("not confirmed: nothing was changed", code="not_confirmed")


def key_name(text: str) -> KeyName:
    """Read a class key's name on the command line."""
    try:
        return parse_key_name(text, where="key name")
    except FormatError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def version(text: str) -> int:
    """Read a class key's version on the command line."""
    if text.isascii() and text.isdecimal() and 1 <= int(text[:11]) <= MAX_KEY_VERSION:
        return int(text)
    raise argparse.ArgumentTypeError(f"expected 1 to {MAX_KEY_VERSION}")


def count(text: str) -> int:
    """Read a number of things on the command line, 0 to a million."""
    if text.isascii() and text.isdecimal() and int(text[:8]) <= 1_000_000:  # noqa: PLR2004 - told in words
        return int(text[:8])
    raise argparse.ArgumentTypeError("expected 0 to 1000000")


def positive_seconds(text: str) -> float:
    """Read a duration on the command line."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 1e9:  # noqa: PLR2004 - thirty years; also refuses nan
        raise argparse.ArgumentTypeError("expected a number of seconds above 0")
    return seconds

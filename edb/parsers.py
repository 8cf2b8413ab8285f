"""The command line as a whole: every command's parser, its help, and nothing that runs.

Starting one command imports that command's module and no other. Completion scripts, man pages and tests ask
for all of them.
"""

from __future__ import annotations

import argparse
import importlib
from typing import TYPE_CHECKING, Any

from edb import VERSION
from shared.command_line.parser import Parser

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = "edb"

GROUPS = {
    "keys": "make, change and watch class keys",
    "devices": "see what devices hold, and why not; let a key change",
    "policy": "check, explain and publish the release policy",
    "audit": "read the audit log and verify its chain",
}
"""What stands before the second word of a command, with its line in the help."""

COMMANDS = {
    "keys list": "list the class keys",
    "keys show": "show a class key, its versions and who has them",
    "keys holders": "show which devices hold a class key, and which version",
    "keys provision": "make a new class key",
    "keys import": "bring a key of one's own as a new class key",
    "keys rotate": "make the next version of a class key",
    "keys revoke": "revoke a version of a class key, and all older ones",
    "keys delete": "delete a class key; it can be recovered for a while",
    "keys recover": "recover a deleted class key",
    "keys rewrap": "move class keys under the newest key encryption key",
    "devices list": "list devices with what was decided about them",
    "devices show": "show what a device was released and what it reports",
    "devices reconcile": "have devices looked at now, and not with the next pass",
    "devices rebind": "bind a device to the key that it reports now",
    "policy check": "check a policy file and warn of what it hardly means; offline",
    "policy explain": "say which rule allows a device or build machine a key, or what fails; offline",
    "policy show": "print the policy that is in force",
    "policy publish": "put a policy into force",
    "audit tail": "show the last audit records, and those to come",
    "audit verify": "verify the chain of the audit log",
    "plan": "say how long a distribution takes and what it costs; offline",
    "health": "ask whether the key service is up and ready",
    "completion": "print a completion script for a shell",
}
"""Every command, with its line in the help."""

DESCRIPTION = """\
Operate the key service: class keys, the devices that hold them, the release policy, the audit log.

Results are tables on a terminal, plain columns in a pipe, and JSON with --json. `edb COMMAND --help` tells
each command's options.
"""

EPILOG = """\
a first look:
  edb health --cloud .local-cloud/cloud.json     # a local cloud: nothing else to say
  export EDB_URL=https://keys.example EDB_FUNCTION_KEY
  edb keys provision my_app
  edb keys rotate my_app --wait                  # until every device has acknowledged
  # instead of the variables, in ~/.config/edb.toml: url = "…", function-key-file = "…"

environment:
  EDB_URL           the key service
  EDB_FUNCTION_KEY  its function key
  EDB_CA_FILE       PEM roots to trust for TLS; else SSL_CERT_FILE or the system's
  EDB_CLOUD         a local cloud's cloud.json, which tells all three

exit status:
  0 done, 1 failed or malformed, 2 wrong usage, 3 refused by policy or verification, 130 interrupted
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; the command's ``run`` comes as an attribute.

    Raises:
        UsageError: The command line is wrong; the usage has been printed.
        SystemExit: Help was asked for (0).
    """
    words = next((count for count in (2, 1) if " ".join(arguments[:count]) in COMMANDS), 0)
    chosen = [" ".join(arguments[:words])] if words else []
    return _declare(chosen)[0].parse_args(arguments)


def build_parser() -> Parser:
    """Return the parser of the whole command line, every command configured."""
    return _declare(list(COMMANDS))[0]


def command_parsers() -> dict[str, Parser]:
    """Return each command's own parser, configured, by the words it is called with."""
    return _declare(list(COMMANDS))[1]


def _declare(configured: Sequence[str]) -> tuple[Parser, dict[str, Parser]]:
    """Return the parser, and those of the commands; only the ones in ``configured`` know their options."""
    parser = Parser(
        prog=PROGRAM,
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-V", "--version", action="version", version=f"{PROGRAM} {VERSION}")
    top = parser.add_subparsers(metavar="COMMAND", required=True)
    below: dict[str, Any] = {}
    for group, summary in GROUPS.items():
        group_parser = top.add_parser(group, help=summary, description=_sentence(summary))
        below[group] = group_parser.add_subparsers(metavar="COMMAND", required=True)
    commands = {}
    for name, summary in COMMANDS.items():
        group, _, word = name.rpartition(" ")
        commands[name] = (below[group] if group else top).add_parser(
            word,
            help=summary,
            description=_sentence(summary),
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name in configured:
            module = importlib.import_module(f"edb.commands.{name.replace(' ', '_')}")
            module.configure(commands[name])
            commands[name].set_defaults(run=module.run)
    return parser, commands


def _sentence(summary: str) -> str:
    return f"{summary[0].upper()}{summary[1:]}."

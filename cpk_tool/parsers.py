"""The command line as a whole: every command's parser, its help, and nothing that runs.

Starting one command imports that command's module and no other. Completion scripts, man pages and tests ask
for all of them.
"""

from __future__ import annotations

import argparse
import importlib
from typing import TYPE_CHECKING

from cpk_tool import VERSION
from shared.command_line.parser import Parser

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = "cpk-tool"

COMMANDS = {
    "build": "seal a payload into a package, and sign it",
    "inspect": "show what a package says about itself, without any key",
    "verify": "decrypt a package in memory and check all that it carries",
    "extract": "verify a package and write its payload in clear",
    "digest": "print what is to be signed, for a key that is elsewhere",
    "sign": "put signatures into a package that was built with --prepare",
    "rewrap": "seal the same payload under another class key",
    "install": "hand a package to the CPM of this device",
    "list": "show the packages that the CPM of this device has installed",
    "uninstall": "remove a package from the CPM of this device",
    "sync": "give the CPM of this device a class key",
    "pub-key": "print the device's public key",
    "completion": "print a completion script for a shell",
}
"""Every command, with its line in the help."""

DESCRIPTION = """\
Seal an application into a confidential package, check packages, and bring them to a device.

A package is encrypted under a class key, which a key service gives to build machines and devices that its
policy accepts, and signed by its vendor. `cpk-tool COMMAND --help` tells each command's options.
"""

EPILOG = """\
package an application, from nothing:
  1. a signing key under a passphrase and its certificate, once; devices trust the certificate:
       openssl rand -base64 24 > sign.pass
       openssl req -x509 -newkey rsa:3072 -keyout sign.key -passout file:sign.pass \\
           -out sign.pem -days 365 -subj "/CN=My company packages"
  2. a class key; to try things out, in a file of one's own:
       echo "{\\"my_app\\": \\"$(openssl rand -base64 32)\\"}" > keys.json
     in earnest the key service holds it: use -e http -k https://KEYS.EXAMPLE/api/WrapKey below
  3. the package:
       cpk-tool build -i app.pyz -o app.cpk -a my_app --package-version 1.0.0 -e file -k keys.json \\
           --sign-key sign.key --sign-key-passphrase-file sign.pass --cert sign.pem
  4. a look at it, and a check of all that a device will check:
       cpk-tool inspect app.cpk
       cpk-tool verify app.cpk --key-store keys.json --trust sign.pem
  5. on the device, which has the class key from its agent or from `cpk-tool sync`:
       cpk-tool install -p app.cpk

environment:
  CP_CLOUD_KEY_SOURCE, CP_FILE_KEY_SOURCE  where class keys come from, if -k does not say
  CPK_FUNCTION_KEY                         the key service's function key
  CPK_PKCS11_MODULE                        the library of a PKCS#11 token
  CPM_SOCKET                               the CPM's socket; else /run/cpm/cpm.sock
  SSL_CERT_FILE, REQUESTS_CA_BUNDLE        roots for TLS, of the key service and of Key Vault

exit status:
  0 done, 1 failed or malformed, 2 wrong usage, 3 refused by verification or policy, 130 interrupted
"""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; the command's ``run`` comes as an attribute.

    Where the command takes a file of options with ``--config``, they come in as defaults: what stands on the
    command line wins.

    Raises:
        SettingsError: The file cannot be parsed as TOML at all.
        OSError: The file cannot be read.
        UsageError: The command line is wrong; the usage has been printed.
        SystemExit: Help was asked for (0).
    """
    chosen = [arguments[0]] if arguments and arguments[0] in COMMANDS else []
    parser, commands = _declare(chosen)
    options = parser.parse_args(arguments)
    if getattr(options, "config", None) is not None:
        from cpk_tool.config_file import read_config  # noqa: PLC0415 - seldom needed

        command = commands[options.command]
        config = read_config(options.config, command.declared())
        command.set_defaults(**config.values, config_problems=config.problems)
        options = parser.parse_args(arguments)
    return options


def build_parser() -> Parser:
    """Return the parser of the whole command line, every command configured."""
    return _declare(list(COMMANDS))[0]


def command_parsers() -> dict[str, Parser]:
    """Return each command's own parser, configured."""
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
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands = {}
    for name, summary in COMMANDS.items():
        command = commands[name] = subparsers.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name in configured:
            module = importlib.import_module(f"cpk_tool.commands.{name.replace('-', '_')}")
            module.configure(command)
            command.set_defaults(run=module.run)
    return parser, commands

"""``edb completion``: a script that teaches a shell the commands, their options and files."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from edb.options import add_json
from shared.command_line.completion import SHELLS, completion_script
from shared.command_line.output import DONE, print_json

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("shell", choices=SHELLS, help="the shell to write for")
    add_json(parser)
    parser.epilog = (
        "examples:\n"
        "  edb completion bash > ~/.local/share/bash-completion/completions/edb\n"
        "  edb completion zsh > ~/.zfunc/_edb    # a folder of $fpath\n"
        "  edb completion fish > ~/.config/fish/completions/edb.fish"
    )


def run(options: argparse.Namespace) -> int:
    """Print the script."""
    from edb.parsers import build_parser  # noqa: PLC0415 - it imports every command

    script = completion_script(build_parser(), options.shell, extra="operator")
    if options.json:
        print_json({"result": "ok", "shell": options.shell, "script": script})
    else:
        sys.stdout.write(script)
    return DONE

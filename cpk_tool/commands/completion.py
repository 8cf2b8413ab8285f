"""``cpk-tool completion``: a script that teaches a shell the tool's commands, options and files."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from cpk_tool.options import add_json
from cpk_tool.output import DONE, print_json
from shared.command_line.completion import SHELLS, completion_script

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument("shell", choices=SHELLS, help="the shell to write for")
    add_json(parser)
    parser.epilog = (
        "examples:\n"
        "  cpk-tool completion bash > ~/.local/share/bash-completion/completions/cpk-tool\n"
        "  cpk-tool completion zsh > ~/.zfunc/_cpk-tool    # a folder of $fpath\n"
        "  cpk-tool completion fish > ~/.config/fish/completions/cpk-tool.fish"
    )


def run(options: argparse.Namespace) -> int:
    """Print the script."""
    from cpk_tool.parsers import build_parser  # noqa: PLC0415 - it imports every command

    script = completion_script(build_parser(), options.shell, extra="tool")
    if options.json:
        print_json({"result": "ok", "shell": options.shell, "script": script})
    else:
        sys.stdout.write(script)
    return DONE

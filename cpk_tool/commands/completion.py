"""``cpk-tool completion``: a script that teaches a shell the tool's commands, options and files."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from cpk_tool.options import add_json
from cpk_tool.output import DONE, print_json
from shared.errors import EdbError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from cpk_tool.parsers import Parser

SHELLS = ("bash", "zsh", "fish")


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
    script = completion_script(options.shell)
    if options.json:
        print_json({"result": "ok", "shell": options.shell, "script": script})
    else:
        sys.stdout.write(script)
    return DONE


def completion_script(shell: str) -> str:
    """Return the completion script for a shell."""
    try:
        import shtab  # noqa: PLC0415 - no other command needs it
    except ImportError as error:
        raise EdbError(
            "completion scripts need the package shtab",
            code="not_installed",
            hint="pip install 'enclave-device-blueprint[tool]'",
        ) from error

    from cpk_tool.parsers import build_parser  # noqa: PLC0415 - it imports every command

    parser = build_parser()
    _complete_files(parser, shtab.FILE)
    return shtab.complete(parser, shell=shell) + "\n"


def _complete_files(parser: Parser, files: Mapping[str, object]) -> None:
    """Let everything that is called a file or a path complete as one, in all commands."""
    for action in parser.declared():
        if isinstance(action.choices, dict):
            for command in action.choices.values():
                _complete_files(command, files)
        elif isinstance(action.metavar, str) and {"FILE", "PATH"} & set(action.metavar.split("_")):
            action.complete = files  # type: ignore[attr-defined] # where shtab looks

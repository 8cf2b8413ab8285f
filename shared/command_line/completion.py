"""Completion scripts, written from the parsers by shtab, which is imported only when one is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.errors import EdbError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared.command_line.parser import Parser

SHELLS = ("bash", "zsh", "fish")
"""The shells that there are scripts for."""


def completion_script(parser: Parser, shell: str, *, extra: str) -> str:
    """Return the completion script for a shell; everything called a file or a path completes as one.

    Args:
        parser: The whole command line's.
        shell: One of :data:`SHELLS`.
        extra: What to install where shtab is missing.

    Raises:
        EdbError: ``not_installed``.
    """
    try:
        import shtab  # noqa: PLC0415 - no other command needs it
    except ImportError as error:
        raise EdbError(
            "completion scripts need the package shtab",
            code="not_installed",
            hint=f"pip install 'enclave-device-blueprint[{extra}]'",
        ) from error
    _complete_files(parser, shtab.FILE)
    return shtab.complete(parser, shell=shell) + "\n"


def _complete_files(parser: Parser, files: Mapping[str, object]) -> None:
    for action in parser.declared():
        if isinstance(action.choices, dict):
            for command in action.choices.values():
                _complete_files(command, files)
        elif isinstance(action.metavar, str) and {"FILE", "PATH"} & set(action.metavar.split("_")):
            action.complete = files  # type: ignore[attr-defined] # where shtab looks

"""Man pages of ``cpk-tool``, written from its parsers: ``python -m cpk_tool.man_pages DIRECTORY``.

One page for the tool and one for each command, so that ``man cpk-tool-build`` says what ``cpk-tool build
--help`` says.
"""

from __future__ import annotations

import sys
from pathlib import Path

from cpk_tool import VERSION
from cpk_tool.parsers import COMMANDS, PROGRAM, build_parser, command_parsers
from shared.command_line.man_pages import Program


def documented() -> Program:
    """Return the tool with every command's parser."""
    return Program(
        name=PROGRAM,
        version=VERSION,
        summary="build, check and install confidential packages",
        parser=build_parser(),
        commands=command_parsers(),
        summaries=COMMANDS,
    )


if __name__ == "__main__":
    documented().write_man_pages(Path(sys.argv[1]))

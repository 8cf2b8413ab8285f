"""Man pages of ``edb``, written from its parsers: ``python -m edb.man_pages DIRECTORY``."""

from __future__ import annotations

import sys
from pathlib import Path

from edb import VERSION
from edb.parsers import COMMANDS, PROGRAM, build_parser, command_parsers
from shared.command_line.man_pages import Program


def documented() -> Program:
    """Return the program with every command's parser."""
    return Program(
        name=PROGRAM,
        version=VERSION,
        summary="operate the key service",
        parser=build_parser(),
        commands=command_parsers(),
        summaries=COMMANDS,
    )


if __name__ == "__main__":
    documented().write_man_pages(Path(sys.argv[1]))

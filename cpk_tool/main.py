"""Entry point of ``cpk-tool``: runs the command, turns errors into messages and exit statuses."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from cpk_tool import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the tool.

    Args:
        argv: The command line after the program's name; the process's own if not given.

    Returns:
        0 done, 1 failed or malformed, 2 wrong usage, 3 refused by verification or policy, 130 interrupted;
        128 and its number for another signal.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments in (["--version"], ["-V"]):
        print(f"cpk-tool {VERSION}")
        return 0
    from cpk_tool import output, parsers  # noqa: PLC0415 - --version is to start fast
    from shared.command_line.running import run  # noqa: PLC0415 - as above

    return run(output.MESSAGES, parsers.parse, arguments)


if __name__ == "__main__":
    sys.exit(main())

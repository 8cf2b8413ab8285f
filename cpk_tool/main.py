"""Entry point of ``cpk-tool``: runs the command, turns errors into messages and exit statuses."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from cpk_tool import VERSION

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import FrameType

_STATUS_SIGNALLED = 128


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
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _terminate)
    return _run(arguments)


def _run(arguments: list[str]) -> int:
    from cpk_tool import output, parsers  # noqa: PLC0415 - --version is to start fast
    from shared.errors import EdbError  # noqa: PLC0415 - as above

    options = None
    try:
        options = parsers.parse(arguments)
        status: int = options.run(options)
        sys.stdout.flush()
    except EdbError as error:
        if getattr(options, "json", "--json" in arguments):
            output.print_failure(error)
        output.report(error)
        return output.exit_status(error)
    except BrokenPipeError:
        sys.stdout = None  # the reader has gone; nothing is left to flush
        return output.FAILED
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        failure = EdbError(f"{where}{(error.strerror or type(error).__name__).lower()}", code="io_error")
        if getattr(options, "json", False):
            output.print_failure(failure)
        output.report(failure)
        return output.FAILED
    except KeyboardInterrupt:
        output.report_error("interrupted")
        return output.INTERRUPTED
    return status


def _terminate(number: int, _frame: FrameType | None) -> NoReturn:
    """Unwind, so that nothing half-written is left behind."""
    raise SystemExit(_STATUS_SIGNALLED + number)


if __name__ == "__main__":
    sys.exit(main())

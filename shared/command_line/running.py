"""Run a command from its command line to its exit status, whatever becomes of it."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from shared.command_line import output
from shared.errors import EdbError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from types import FrameType

_STATUS_SIGNALLED = 128


def run(
    messages: output.Messages,
    parse: Callable[[Sequence[str]], argparse.Namespace],
    arguments: Sequence[str],
) -> int:
    """Run what a command line asks for; its ``run`` comes from the parser.

    Args:
        messages: Where errors are told.
        parse: Returns the options, with the command's ``run``.
        arguments: The command line after the program's name.

    Returns:
        What ``run`` returns; 1 failed or malformed, 2 wrong usage, 3 refused by verification or policy, 130
        interrupted.

    Raises:
        SystemExit: Help was asked for (0), or SIGTERM or SIGHUP came (128 and its number).
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, _terminate)
    try:
        options = parse(arguments)
        status: int = options.run(options)
        sys.stdout.flush()
    except EdbError as error:
        failure, status = error, output.exit_status(error)
    except BrokenPipeError:
        sys.stdout = None  # the reader has gone; nothing is left to flush
        return output.FAILED
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        failure = EdbError(f"{where}{(error.strerror or type(error).__name__).lower()}", code="io_error")
        status = output.FAILED
    except KeyboardInterrupt:
        failure, status = EdbError("interrupted", code="interrupted"), output.INTERRUPTED
    else:
        return status
    if "--json" in arguments:  # even where the rest of the command line could not be read
        output.print_failure(failure)
    messages.report(failure)
    return status


def _terminate(number: int, _frame: FrameType | None) -> NoReturn:
    """Unwind, so that nothing half-written is left behind."""
    raise SystemExit(_STATUS_SIGNALLED + number)

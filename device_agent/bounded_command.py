"""Run another program within limits: a fixed argv, no shell, little environment, limited time and output.

The program may hang, fork, write without end or not read its input: whatever it does, the call ends in time,
and every process of its group with it.

Example:
    >>> run_command(["/usr/bin/renew", "--quiet"], stdin=b"...", seconds=60, limit=65536).stdout[:5]
    b'-----'
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import time
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from shared.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_CHUNK = 16 * 1024
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TZ", "HOME")
"""What a program gets of the agent's environment; nothing that may hold a secret."""

TIMED_OUT = "command_timed_out"
TOO_MUCH_OUTPUT = "command_output_too_long"
NOT_STARTED = "command_not_started"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A program that ended by itself.

    Args:
        status: Exit status; negative, the signal that ended it.
        stdout: What it wrote, whole.
        stderr: Likewise.
    """

    status: int
    stdout: bytes
    stderr: bytes


def run_command(
    argv: Sequence[str],
    *,
    seconds: float,
    limit: int,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
) -> Finished:
    """Run a program to its end.

    Args:
        argv: The program's file name and its arguments.
        seconds: How long it may take.
        limit: Bytes that it may write to standard output and error together.
        stdin: What it may read.
        environment: Variables that it gets beside the few that are passed on.

    Raises:
        TransportError: :data:`NOT_STARTED`, :data:`TIMED_OUT` or :data:`TOO_MUCH_OUTPUT`; the message names
            the program, never its arguments.
    """
    passed = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    try:
        process = subprocess.Popen(  # noqa: S603 - argv comes from the settings, and there is no shell
            list(argv),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**passed, **(environment or {})},
            cwd="/",
            start_new_session=True,
        )
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or "not a command"
        raise TransportError(f"{argv[0]}: cannot be started: {reason}", code=NOT_STARTED) from error
    with process:
        try:
            stdout, stderr = _exchange(process, stdin, deadline=time.monotonic() + seconds, limit=limit)
        except _Limit as limited:
            raise TransportError(f"{argv[0]}: {limited.text(seconds, limit)}", code=limited.code) from None
        finally:
            # The whole group: what it left running would hold the pipes, or stay for good.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        return Finished(status=process.returncode, stdout=stdout, stderr=stderr)


class _Limit(Exception):
    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code

    def text(self, seconds: float, limit: int) -> str:
        if self.code == TIMED_OUT:
            return f"did not end in {seconds:g} seconds"
        return f"wrote more than {limit} bytes"


def _exchange(
    process: subprocess.Popen[bytes], stdin: bytes, *, deadline: float, limit: int
) -> tuple[bytes, bytes]:
    """Feed and read the program until it has closed its output and ended."""
    assert process.stdin and process.stdout and process.stderr  # noqa: PT018, S101 - opened as pipes
    outputs = {process.stdout.fileno(): bytearray(), process.stderr.fileno(): bytearray()}
    pending = memoryview(stdin)
    with selectors.DefaultSelector() as selector:
        for fd in outputs:
            os.set_blocking(fd, False)
            selector.register(fd, selectors.EVENT_READ)
        os.set_blocking(process.stdin.fileno(), False)
        selector.register(process.stdin, selectors.EVENT_WRITE)
        while selector.get_map():
            for key, _ in selector.select(_left(deadline)):
                if key.fd not in outputs:
                    pending = _feed(selector, process.stdin, pending)
                elif data := os.read(key.fd, _CHUNK):
                    outputs[key.fd] += data
                    if sum(map(len, outputs.values())) > limit:
                        raise _Limit(TOO_MUCH_OUTPUT)
                else:
                    selector.unregister(key.fd)
    try:
        process.wait(_left(deadline))
    except subprocess.TimeoutExpired:
        raise _Limit(TIMED_OUT) from None
    stdout, stderr = map(bytes, outputs.values())
    return stdout, stderr


def _feed(selector: selectors.BaseSelector, pipe: IO[bytes], pending: memoryview) -> memoryview:
    try:
        pending = pending[os.write(pipe.fileno(), pending) :]
    except BrokenPipeError:  # it does not want to know
        pending = memoryview(b"")
    if not pending:
        selector.unregister(pipe)
        pipe.close()
    return pending


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise _Limit(TIMED_OUT)
    return left

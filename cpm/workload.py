"""Run a payload from an anonymous memory file: it is never in clear on a disk.

The payload is written into a memfd, which is then sealed against every change, and executed by descriptor. A
script works as well as a binary: its interpreter opens the same descriptor again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cpm.files import write_all
from shared.errors import EdbError, FormatError, StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

SIGNAL_BASE: Final = 128
"""A workload that a signal ended has this plus the signal's number as its exit status, as shells have it."""

_LAUNCHER = Path(__file__).with_name("launcher.py")
_MFD_EXEC = 0x10  # since Linux 6.3; os knows it from Python 3.14 on
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
_PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How a workload is started.

    Args:
        cp_id: The package's id; the workload's ``CP_ID`` and its name.
        version: The package's version; its ``CP_VERSION``.
        arguments: Its arguments.
        stdio: Descriptors of its standard input, output and error.
        uid: User and group to run it as; None stays with the CPM's.
    """

    cp_id: str
    version: str
    arguments: Sequence[str]
    stdio: tuple[int, int, int]
    uid: int | None = None


def load_payload(parts: Iterable[bytes]) -> int:
    """Return the descriptor of a memory file that holds the payload and can be changed by nobody.

    Raises:
        StorageError: ``memory_full``, or what reading the parts raises.
    """
    memfd = _create_memfd()
    try:
        for part in parts:
            write_all(memfd, part)
        fcntl.fcntl(memfd, fcntl.F_ADD_SEALS, _SEALS)
    except OSError as error:
        os.close(memfd)
        raise StorageError(f"no memory for the payload: {error.strerror}", code="memory_full") from error
    except BaseException:
        os.close(memfd)
        raise
    return memfd


def _create_memfd() -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create("payload", flags | _MFD_EXEC)
    except OSError:  # an older kernel, where every memory file is executable
        return os.memfd_create("payload", flags)


def run(memfd: int, launch: Launch, *, client: int) -> int:
    """Run a payload until it ends or its client goes away.

    It gets the three descriptors and the payload's own, a minimal environment, ``/`` as its folder and a
    session of its own. What it leaves running in that session is killed when it ends.

    Args:
        memfd: From :func:`load_payload`; closed.
        launch: How to start it.
        client: Descriptor of a stream socket; when its peer hangs up, the workload is killed.

    Returns:
        Its exit status, 0 to 255.

    Raises:
        FormatError: ``request_invalid``; an argument holds a NUL.
        EdbError: ``workload_failed``; the system gives no process, or takes no arguments of that length.
    """
    try:
        child = _start(memfd, launch)
    except OSError as error:
        raise EdbError(f"the workload cannot be started: {error.strerror}", code="workload_failed") from error
    finally:
        os.close(memfd)
    try:
        with _pidfd(child.pid) as pidfd:
            _wait(pidfd, client)
    finally:
        # The child is not reaped yet, so its number is still its own.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        status = child.wait()
    return status if status >= 0 else SIGNAL_BASE - status


def _start(memfd: int, launch: Launch) -> subprocess.Popen[bytes]:
    if any("\0" in argument for argument in launch.arguments):
        raise FormatError("run: an argument holds a NUL", code="request_invalid")
    stdin, stdout, stderr = launch.stdio
    uid = "-" if launch.uid is None else str(launch.uid)
    command = [sys.executable, "-I", "-S", str(_LAUNCHER), str(os.getpid()), uid, str(memfd), launch.cp_id]
    return subprocess.Popen(  # noqa: S603 - our own launcher; arguments are a list, there is no shell
        [*command, *launch.arguments],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        pass_fds=(memfd,),
        env={"PATH": _PATH, "LANG": "C.UTF-8", "CP_ID": launch.cp_id, "CP_VERSION": launch.version},
        cwd="/",
        start_new_session=True,
    )


@contextlib.contextmanager
def _pidfd(pid: int) -> Iterator[int]:
    fd = os.pidfd_open(pid)
    try:
        yield fd
    finally:
        os.close(fd)


def _wait(pidfd: int, client: int) -> None:
    """Return when the process has ended or the client has hung up."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    poll.register(client, select.POLLRDHUP)
    poll.poll()

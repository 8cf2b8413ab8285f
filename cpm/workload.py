"""Run a payload from an anonymous memory file, or pour it into a pipe: it is never in clear on a disk.

To run, the payload is written into a memfd, which is then sealed against every change, and executed by
descriptor inside a sandbox. A script works as well as a binary: its interpreter opens the same descriptor
again.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import resource
import select
import signal
import socket
import stat
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cpm.files import write_all
from cpm.launcher import Job
from cpm.sandbox import PROGRAMS_PATH, Sandbox, Unconfined
from shared.errors import EdbError, FormatError, PolicyDenied, StorageError, TransportError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

SIGNAL_BASE: Final = 128
"""A workload that a signal ended has this plus the signal's number as its exit status, as shells have it."""

_LAUNCHER = Path(__file__).with_name("launcher.py")
_MFD_EXEC = 0x10  # since Linux 6.3; os knows it from Python 3.14 on
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What each process of a workload may use; None leaves what the CPM has.

    They keep a faulty workload from taking the device down. A hostile one that starts many processes is for
    the control group that the CPM's own unit sets.

    Args:
        memory: Bytes of address space.
        cpu_seconds: Processor time; SIGXCPU, and a second later SIGKILL.
        processes: Processes and threads of the workload's user altogether, the CPM's own included if that is
            the same; root has no such limit.
        open_files: Open descriptors.
    """

    memory: int | None = 4 << 30
    cpu_seconds: int | None = None
    processes: int | None = 512
    open_files: int | None = 1024

    def by_resource(self) -> list[tuple[int, int]]:
        """Return the limits that are set, by the number of their resource."""
        limits = (
            (resource.RLIMIT_AS, self.memory),
            (resource.RLIMIT_CPU, self.cpu_seconds),
            (resource.RLIMIT_NPROC, self.processes),
            (resource.RLIMIT_NOFILE, self.open_files),
        )
        return [(number, most) for number, most in limits if most is not None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What the device lets workloads do; packages and clients have no say in it.

    Args:
        sandbox: What confines them.
        limits: What each of their processes may use.
        uid: User and group to run them as; None for the CPM's own.
        network_for: Ids of the packages that may use the network.
        stream_for: Ids of the packages whose payload clients may have in clear.
    """

    sandbox: Sandbox = field(default_factory=Unconfined)
    limits: Limits = field(default_factory=Limits)
    uid: int | None = None
    network_for: frozenset[str] = frozenset()
    stream_for: frozenset[str] = frozenset()

    def check_stream(self, cp_id: str) -> None:
        """Refuse to give a payload away that is not to be.

        Raises:
            PolicyDenied: ``stream_denied``.
        """
        if cp_id not in self.stream_for:
            raise PolicyDenied(
                f"package {cp_id[:256]!r}: this device gives its payload to nobody",
                code="stream_denied",
                hint="allow it with cpm serve --allow-stream",
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """How a workload is started.

    Args:
        cp_id: The package's id; the workload's ``CP_ID``, and its name where there is no wrapper around it.
        version: The package's version; its ``CP_VERSION``.
        arguments: Its arguments.
        stdio: Descriptors of its standard input, output and error.
        rules: What it may do.
    """

    cp_id: str
    version: str
    arguments: Sequence[str]
    stdio: tuple[int, int, int]
    rules: Rules


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
    rules = launch.rules
    network = launch.cp_id in rules.network_for
    confinement = rules.sandbox.confinement(network=network)
    job = Job(
        parent=os.getpid(),
        uid=rules.uid,
        memfd=memfd,
        limits=rules.limits.by_resource(),
        wrapper=list(confinement.wrapper),
        landlock=confinement.landlock,
        network=network,
    )
    command = [sys.executable, "-I", "-S", str(_LAUNCHER), json.dumps(asdict(job)), launch.cp_id]
    return subprocess.Popen(  # noqa: S603 - our own launcher; arguments are a list, there is no shell
        [*command, *launch.arguments],
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        pass_fds=(memfd,),
        env={"PATH": PROGRAMS_PATH, "LANG": "C.UTF-8", "CP_ID": launch.cp_id, "CP_VERSION": launch.version},
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


def stream(parts: Iterable[bytes], out: int, *, client: int) -> int:
    """Pour a payload into the client's pipe, each part once it is known to be authentic.

    Args:
        parts: The payload.
        out: The writing end of a pipe, or a Unix stream socket: what rests on no disk and leaves no machine.
        client: Descriptor of a stream socket; when its peer hangs up, this ends.

    Returns:
        How many bytes went.

    Raises:
        FormatError: ``request_invalid``; ``out`` is anything else. Nothing was written.
        TransportError: ``stream_closed``; the reader or the client went away.
        StorageError: What reading the parts raises; the reader has the parts before.
    """
    _check_stream_end(out)
    sent = 0
    poll = select.poll()
    poll.register(out, select.POLLOUT)
    poll.register(client, select.POLLRDHUP)
    try:
        for part in parts:
            view = memoryview(part)
            while view:
                _wait_for_room(poll, client)
                written = os.write(out, view[: select.PIPE_BUF])  # where there is room, there is this much
                view, sent = view[written:], sent + written
    except (BrokenPipeError, ConnectionResetError) as error:
        raise TransportError(
            f"stream: the reader went away after {sent} bytes", code="stream_closed"
        ) from error
    except OSError as error:
        raise TransportError(f"stream: {error.strerror}", code="stream_closed") from error
    return sent


def _wait_for_room(poll: select.poll, client: int) -> None:
    if any(fd == client for fd, _ in poll.poll()):
        raise BrokenPipeError


def _check_stream_end(fd: int) -> None:
    """Refuse what is no pipe or local socket open for writing: a file, a terminal, a connection elsewhere."""
    mode = os.fstat(fd).st_mode
    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
    good = stat.S_ISFIFO(mode) or (stat.S_ISSOCK(mode) and _is_unix_stream(fd))
    if not good or flags & os.O_ACCMODE == os.O_RDONLY or flags & os.O_PATH:
        raise FormatError(
            "stream: expected the writing end of a pipe or a Unix stream socket",
            code="request_invalid",
            hint="pipe the output into the program that needs the payload",
        )


def _is_unix_stream(fd: int) -> bool:
    with socket.socket(fileno=os.dup(fd)) as sock:
        return sock.family == socket.AF_UNIX and sock.type == socket.SOCK_STREAM

"""Become a workload: run as a script by :mod:`cpm.workload`, between its fork and the payload's exec.

Usage: ``python -I -S launcher.py JOB ARGV0 [ARGUMENT…]`` with the members of :class:`Job` as JSON. It is a
program of its own because a process with threads must not run Python code between fork and exec. Of the
project it imports :mod:`cpm.landlock` alone, and only if it needs it.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

NOT_EXECUTABLE = 126
"""Exit status if the payload is no program, as shells have it."""

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_PROGRAM_MAGICS = (b"\x7fELF", b"#!")


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What there is to do beside the workload's own arguments.

    Args:
        parent: The CPM's process id; the workload does not outlive it.
        uid: User and group to become; None stays.
        memfd: The payload, sealed against writing; stays open, for a script's interpreter opens it again.
        limits: Resource limits by the number that :mod:`resource` gives them, as ``[resource, most]``.
        wrapper: A program and its options that run the payload in a sandbox; empty to run it directly.
        landlock: Whether to confine this process by Landlock.
        network: With ``landlock``: whether it may make sockets.
    """

    parent: int
    uid: int | None
    memfd: int
    limits: list[tuple[int, int]]
    wrapper: list[str]
    landlock: bool
    network: bool


def main(job: Job, argv: list[str]) -> None:
    """Give up what the workload must not have, and become it.

    Args:
        job: What to do.
        argv: The workload's own arguments, its name first.
    """
    # Before the change of user: the new one may not be able to read the CPM's own code.
    confine = _import_landlock().confine if job.landlock else None
    if job.uid is not None:
        os.setgroups([])
        os.setresgid(job.uid, job.uid, job.uid)
        os.setresuid(job.uid, job.uid, job.uid)
    # After the change of user, which would undo the first of these.
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_PDEATHSIG, signal.SIGKILL), (_PR_SET_NO_NEW_PRIVS, 1)):
        if libc.prctl(option, ctypes.c_ulong(value), *[ctypes.c_ulong(0)] * 3) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != job.parent:  # it died before PDEATHSIG was set
        os.kill(os.getpid(), signal.SIGKILL)
    for number, most in [(resource.RLIMIT_CORE, 0), *job.limits]:
        _limit(number, most)
    if confine is not None:
        confine(network=job.network)
    # The interpreter ignores these two; what is ignored stays ignored through exec.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    payload = f"/proc/self/fd/{job.memfd}"
    if not job.wrapper:
        os.execve(payload, argv, os.environ)  # noqa: S606 - the verified payload, no shell
    # A wrapper would give what the kernel does not take to a shell.
    if not os.pread(job.memfd, 4, 0).startswith(_PROGRAM_MAGICS):
        raise OSError(0, "it is no program")
    os.execve(job.wrapper[0], [*job.wrapper, payload, *argv[1:]], os.environ)  # noqa: S606 - as above


def _import_landlock() -> ModuleType:
    sys.path.append(str(Path(__file__).parents[1]))  # -I -S leave the standard library's folders alone
    from cpm import landlock  # noqa: PLC0415 - most workloads need nothing of the project

    return landlock


def _limit(number: int, most: int) -> None:
    """Set a limit that cannot be raised again; one that is lower already stays."""
    _, hard = resource.getrlimit(number)
    if hard != resource.RLIM_INFINITY:
        most = min(most, hard)
    unlimited = hard == resource.RLIM_INFINITY or most < hard
    # Beyond the soft limit of processor time comes SIGXCPU, beyond the hard one SIGKILL.
    resource.setrlimit(number, (most, most + 1 if number == resource.RLIMIT_CPU and unlimited else most))


if __name__ == "__main__":
    try:
        main(Job(**json.loads(sys.argv[1])), sys.argv[2:])
    except OSError as error:
        print(f"cpm: the payload does not start: {error.strerror}", file=sys.stderr)  # noqa: T201 - the workload's own stderr
        sys.exit(NOT_EXECUTABLE)

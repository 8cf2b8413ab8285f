"""Become a workload: run as a script by :mod:`cpm.workload`, between its fork and the payload's exec.

Usage: ``python -I -S launcher.py PARENT_PID UID MEMFD ARGV0 [ARGUMENT…]``, UID ``-`` for no change. It is a
program of its own because a process with threads must not run Python code between fork and exec. It imports
nothing of the project.
"""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys

NOT_EXECUTABLE = 126
"""Exit status if the payload is no program, as shells have it."""

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38


def main(parent: int, uid: int | None, memfd: int, argv: list[str]) -> None:
    """Give up what the workload must not have, and become it.

    Args:
        parent: The CPM's process id; the workload does not outlive it.
        uid: User and group to become; None stays.
        memfd: The payload, sealed against writing; stays open, for a script's interpreter opens it again.
        argv: The workload's own arguments, its name first.
    """
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    # After the change of user, which would undo the first of these.
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_PDEATHSIG, signal.SIGKILL), (_PR_SET_NO_NEW_PRIVS, 1)):
        if libc.prctl(option, ctypes.c_ulong(value), *[ctypes.c_ulong(0)] * 3) != 0:
            raise OSError(ctypes.get_errno(), "prctl")
    if os.getppid() != parent:  # it died before PDEATHSIG was set
        os.kill(os.getpid(), signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # The interpreter ignores these two; what is ignored stays ignored through exec.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    os.execve(f"/proc/self/fd/{memfd}", argv, os.environ)  # noqa: S606 - the verified payload, no shell


if __name__ == "__main__":
    try:
        user = None if sys.argv[2] == "-" else int(sys.argv[2])
        main(int(sys.argv[1]), user, int(sys.argv[3]), sys.argv[4:])
    except OSError as error:
        print(f"cpm: the payload does not start: {error.strerror}", file=sys.stderr)  # noqa: T201 - the workload's own stderr
        sys.exit(NOT_EXECUTABLE)

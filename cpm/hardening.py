"""What a process that holds keys does to itself before it holds any."""

from __future__ import annotations

import ctypes
import logging
import os
import resource

log = logging.getLogger("cpm")

_PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 4, 38
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4


def harden() -> None:
    """Leave no core dump, no way in for a debugger, no file for others, and no swapped key.

    What children inherit of this is the core limit, the umask, and that no program they start gives them
    privileges. Locking memory needs a limit or a privilege that not every system gives: without it the CPM
    says so in its log and goes on.
    """
    os.umask(0o077)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    for name, option, value in (("dumpable", _PR_SET_DUMPABLE, 0), ("no_new_privs", _PR_SET_NO_NEW_PRIVS, 1)):
        if libc.prctl(option, ctypes.c_ulong(value), *[ctypes.c_ulong(0)] * 3) != 0:
            log.warning(name, extra={"outcome": "failed", "code": os.strerror(ctypes.get_errno())})
    _lock_memory(libc)


def _lock_memory(libc: ctypes.CDLL) -> None:
    """Keep pages out of swap once they are touched; a small limit would make later allocations fail."""
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft != resource.RLIM_INFINITY and os.geteuid() != 0:
        log.info("memory_lock", extra={"outcome": "skipped", "code": "memlock_limit"})
    elif libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) != 0:
        log.info("memory_lock", extra={"outcome": "skipped", "code": os.strerror(ctypes.get_errno())})

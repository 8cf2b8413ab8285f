"""Confine the calling process without any namespace: Landlock for files and signals, seccomp for sockets.

Run by :mod:`cpm.launcher` between fork and exec, so it needs nothing but the standard library. What holds for
the process and everything it starts, and cannot be undone:

- files: it may read and run what stands under :data:`READABLE`, read its own ``/proc`` entry and use the
  harmless devices. It can open nothing else, and can change nothing at all.
- sockets: it can make none, or with ``network`` every kind but Unix ones, through which it would reach the
  CPM and other services of its user. Pairs that stay connected to each other are possible.
- other processes: none outside can be traced, or signalled where the kernel is 6.12 or later.

Numbers are those of ``linux/landlock.h``, ``linux/seccomp.h`` and ``linux/audit.h``.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
import sys
from pathlib import Path
from typing import Final

READABLE: Final = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/ssl/certs",
)
"""What a workload may read and run, in every sandbox: programs, libraries, and public certificates."""

READABLE_WITH_NETWORK: Final = (
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/resolv.conf",
    "/run/systemd/resolve",
)
"""What a workload may also read if it has the network: how names are looked up."""

_PUBLIC_PROC = ("/proc/cpuinfo", "/proc/meminfo", "/proc/stat")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446  # the same on every architecture
_VERSION_FLAG = 1
_RULE_PATH_BENEATH = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1, 2, 4, 8
_SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS = 3
_ACCESS_BITS = {1: 13, 2: 14, 3: 15, 4: 15}  # how many rights an ABI knows; from 5 on, 16
_LATEST_ACCESS_BITS = 16
_NET_ABI, _SCOPE_ABI = 4, 6

_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 22, 2
_ALLOW, _DENY, _KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000
_LOAD, _AND, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06
_NUMBER_OFFSET, _ARCHITECTURE_OFFSET, _FIRST_ARGUMENT_OFFSET, _SECOND_ARGUMENT_OFFSET = 0, 4, 16, 24
# By machine: audit's number of the architecture, and the calls' own for socket and socketpair.
_ARCHITECTURES = {"x86_64": (0xC000003E, 41, 53), "aarch64": (0xC00000B7, 198, 199)}
_IO_URING_SETUP = 425  # could make sockets past the filter
_X32_BIT = 0x40000000
_AF_UNIX = 1
_SOCK_STREAM, _SOCK_SEQPACKET, _SOCKET_TYPE_MASK = 1, 5, 0xF


def why_not() -> str | None:
    """Return why this system cannot do it, or None if it can."""
    if os.uname().machine not in _ARCHITECTURES or sys.byteorder != "little":
        return f"no socket filter for {os.uname().machine}"
    if _abi() < 1:
        return "the kernel has no Landlock"
    return None


def confine(*, network: bool) -> None:
    """Confine this process for good; it must have set ``no_new_privs``.

    Args:
        network: Whether it may make sockets other than Unix ones.

    Raises:
        OSError: The kernel refused; the process must not go on.
    """
    _restrict_files(READABLE + (READABLE_WITH_NETWORK if network else ()))
    _filter_sockets(network=network)


def _restrict_files(readable: tuple[str, ...]) -> None:
    abi = _abi()
    handled = (1 << _ACCESS_BITS.get(abi, _LATEST_ACCESS_BITS)) - 1
    scoped = _SCOPE_ABSTRACT_SOCKETS_AND_SIGNALS if abi >= _SCOPE_ABI else 0
    size = 8 if abi < _NET_ABI else 16 if abi < _SCOPE_ABI else 24
    attributes = struct.pack("=QQQ", handled, 0, scoped)[:size]
    ruleset = _syscall(_CREATE_RULESET, attributes, size, 0)
    try:
        for path in readable:
            _allow(ruleset, path, _EXECUTE | _READ_FILE | _READ_DIR)
        for path in ("/proc/self", *_PUBLIC_PROC):
            _allow(ruleset, path, _READ_FILE | _READ_DIR)
        for path in _DEVICES:
            _allow(ruleset, path, _READ_FILE | _WRITE_FILE)
        _syscall(_RESTRICT_SELF, ruleset, 0)
    finally:
        os.close(ruleset)


def _allow(ruleset: int, path: str, access: int) -> None:
    """Allow access to a file or to everything beneath a folder; one that does not exist needs no rule."""
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
        try:
            if not Path(f"/proc/self/fd/{fd}").is_dir():
                access &= ~_READ_DIR
            _syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, struct.pack("=Qi", access, fd), 0)
        finally:
            os.close(fd)


def _filter_sockets(*, network: bool) -> None:
    architecture, socket_number, socketpair_number = _ARCHITECTURES[os.uname().machine]
    program = [
        _instruction(_LOAD, _ARCHITECTURE_OFFSET),
        _instruction(_JUMP_EQUAL, architecture, if_true=1),
        _instruction(_RETURN, _KILL),  # another architecture's calls have other numbers
        _instruction(_LOAD, _NUMBER_OFFSET),
        _instruction(_JUMP_GREATER_EQUAL, _X32_BIT, if_false=1),
        _instruction(_RETURN, _DENY),
        _instruction(_JUMP_EQUAL, _IO_URING_SETUP, if_false=1),
        _instruction(_RETURN, _DENY),
        # A pair of datagram sockets could send to any socket by its name; the other kinds stay connected.
        _instruction(_JUMP_EQUAL, socketpair_number, if_false=6),
        _instruction(_LOAD, _SECOND_ARGUMENT_OFFSET),
        _instruction(_AND, _SOCKET_TYPE_MASK),
        _instruction(_JUMP_EQUAL, _SOCK_STREAM, if_true=1),
        _instruction(_JUMP_EQUAL, _SOCK_SEQPACKET, if_false=1),
        _instruction(_RETURN, _ALLOW),
        _instruction(_RETURN, _DENY),
        _instruction(_JUMP_EQUAL, socket_number, if_true=1),
        _instruction(_RETURN, _ALLOW),
    ]
    if network:
        program += [
            _instruction(_LOAD, _FIRST_ARGUMENT_OFFSET),
            _instruction(_JUMP_EQUAL, _AF_UNIX, if_true=1),
            _instruction(_RETURN, _ALLOW),
        ]
    program.append(_instruction(_RETURN, _DENY))
    instructions = ctypes.create_string_buffer(b"".join(program))
    header = struct.pack("@HP", len(program), ctypes.addressof(instructions))
    libc = ctypes.CDLL(None, use_errno=True)
    arguments = (ctypes.c_ulong(_SECCOMP_MODE_FILTER), header, ctypes.c_ulong(0), ctypes.c_ulong(0))
    if libc.prctl(_PR_SET_SECCOMP, *arguments) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")


def _instruction(code: int, value: int, *, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _abi() -> int:
    """Return the version of the kernel's Landlock, 0 if it has none or it is off."""
    try:
        return _syscall(_CREATE_RULESET, None, 0, _VERSION_FLAG)
    except OSError:
        return 0


def _syscall(number: int, *arguments: bytes | int | None) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall.restype = ctypes.c_long
    words = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    result = int(libc.syscall(ctypes.c_long(number), *words))
    if result < 0:
        raise OSError(ctypes.get_errno(), "landlock")
    return result

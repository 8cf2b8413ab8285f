"""Run a program with nothing but the system calls named on standard input, as systemd's filter would.

Usage: ``python filtered.py PROGRAM [ARGUMENT…]``. libseccomp, which systemd uses as well, knows the numbers.
"""

import ctypes
import os
import sys

ALLOW, DENY_EPERM = 0x7FFF0000, 0x00050001

if __name__ == "__main__":
    names = sys.stdin.read().split()
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_rule_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint]
    library.seccomp_load.argtypes = [ctypes.c_void_p]
    context = library.seccomp_init(DENY_EPERM)
    for name in names:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number >= 0:  # others are of another architecture
            library.seccomp_rule_add(context, ALLOW, number, 0)
    if library.seccomp_load(context) != 0:
        sys.exit("the filter does not load")
    os.execv(sys.argv[1], sys.argv[1:])

"""The CPM's systemd unit: what it closes, and that the CPM and its workloads live with what it leaves."""

import ctypes.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from readers.systemd import ANALYZE, allowed_calls, settings
from simulators import filtered
from simulators.cpm_process import Cpm
from simulators.releasing_cloud import CP_ID, NAME

from cpm import landlock

UNIT = Path(__file__).parents[2] / "infra" / "edge" / "cpm.service"
MOST_EXPOSURE = 2.0

SCRIPT = b"""#!/usr/bin/env python3
import os, sys
print(sys.stdin.read())
try:
    os.chown("/", 0, 0)
except PermissionError:
    print("filtered")
"""

needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")

CLOSED = {
    # Only root could use them, or they reach into other processes and the kernel.
    *("mount", "pivot_root", "chroot", "setuid", "setgroups", "chown", "ptrace", "process_vm_readv"),
    *("bpf", "perf_event_open", "init_module", "kexec_load", "reboot", "swapon", "keyctl", "add_key"),
    # With a history of holes, and needed by nothing here.
    *("userfaultfd", "io_uring_setup", "io_uring_enter", "personality", "vmsplice", "sched_setscheduler"),
}
NEEDED = {
    *("memfd_create", "execve", "mlockall", "prctl", "prlimit64", "recvmsg", "sendmsg", "socket", "fsync"),
    *("pidfd_open", "landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self"),
}


@needs_systemd
def test_exposure_is_at_most_what_is_promised():
    told = subprocess.run(
        [ANALYZE, "security", "--offline=true", UNIT], capture_output=True, text=True, check=True
    ).stdout

    assert float(re.search(r"exposure level for cpm\.service: ([0-9.]+)", told)[1]) <= MOST_EXPOSURE


@needs_systemd
def test_filter_closes_what_nothing_here_needs_and_leaves_what_the_cpm_does():
    allowed = allowed_calls(UNIT)

    assert not CLOSED & allowed
    assert NEEDED - allowed == set()


def test_unit_gives_no_network_no_namespace_no_privilege_no_dump_and_confines_workloads():
    unit = settings(UNIT)

    for name, value in {
        "PrivateNetwork": "yes",
        "IPAddressDeny": "any",
        "RestrictAddressFamilies": "AF_UNIX",
        "RestrictNamespaces": "yes",
        "CapabilityBoundingSet": "",
        "AmbientCapabilities": "",
        "NoNewPrivileges": "yes",
        "LimitCORE": "0",
        "LimitMEMLOCK": "infinity",
        "ProtectSystem": "strict",
        "ProtectProc": "invisible",
        "SystemCallArchitectures": "native",
        "SystemCallErrorNumber": "EPERM",
        "User": "cpm",
    }.items():
        assert unit[name] == [value], name
    assert "--sandbox landlock" in unit["ExecStart"][0]


@needs_systemd
@pytest.mark.skipif(ctypes.util.find_library("seccomp") is None, reason="libseccomp is not installed")
@pytest.mark.skipif(landlock.why_not() is not None, reason=f"landlock: {landlock.why_not()}")
def test_cpm_and_a_confined_workload_live_with_the_filter(tmp_path):
    """A release, an install, a run and a stream with nothing but the calls that the unit leaves."""
    device = Cpm(folder=tmp_path, options=("--sandbox", "landlock", "--allow-stream", CP_ID))
    device.start(wrapper=[sys.executable, filtered.__file__], given=" ".join(allowed_calls(UNIT)))
    try:
        device.apply(sequence=1, keys={NAME: 1})
        device.install(SCRIPT)
        ran = device.command_line("run", CP_ID, stdin=b"read")
        assert (ran.returncode, ran.stdout, ran.stderr) == (0, b"read\nfiltered\n", b"")
        assert device.command_line("run", "--stream", CP_ID).stdout == SCRIPT
        assert device.command_line("uninstall", CP_ID).returncode == 0
        status = Path(f"/proc/{device.process.pid}/status").read_text()
        assert "Seccomp:\t2\n" in status
        assert device.stop() == 0
    finally:
        if device.process.poll() is None:
            device.kill()

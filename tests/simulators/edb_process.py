"""The edb command as a process: to its end, or on a terminal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

EDB = Path(sys.executable).with_name("edb")


def clean_environment(**more: str) -> dict[str, str]:
    """Return an environment that says nothing of where a key service is, but ``more``."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("EDB_", "XDG_"))}
    return inherited | {"XDG_CONFIG_HOME": "/nonexistent"} | more


def edb(*arguments, env=None, stdin=None, seconds=120) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    return subprocess.run(
        [EDB, *map(str, arguments)],
        capture_output=True,
        check=False,
        text=True,
        input=stdin,
        env=clean_environment(**(env or {})),
        timeout=seconds,
    )


def on_terminal(*arguments, env=None, answer=None) -> tuple[int, str]:
    """Run it on a terminal, and return its status and what it wrote."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(EDB, [str(EDB), *map(str, arguments)], clean_environment(TERM="xterm", **(env or {})))
    if answer is not None:
        os.write(terminal, answer.encode())
    written = b""
    while True:
        try:
            piece = os.read(terminal, 4096)
        except OSError:  # its end is closed
            break
        if not piece:
            break
        written += piece
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), written.decode()

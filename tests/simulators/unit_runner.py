"""A stand-in for ``systemctl``, as a program: ``unit_runner.py ROOT enable --now|restart UNIT``.

It starts what a service's ExecStart says, with the environment, folders and credentials that the unit gives,
and leaves it running; ``ROOT/pids/UNIT`` holds its process id, ``ROOT/UNIT.log`` what it logs. Users and
sandboxes are left out: a test has neither.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path


class Unit:
    """A service's file below ``root``."""

    def __init__(self, root: Path, name: str) -> None:
        self._root, self._name = root, name
        text = re.sub(r"\\\n", " ", (root / "etc/systemd/system" / name).read_text())
        lines = [line for line in text.splitlines() if "=" in line and line[0] not in "#["]
        self._entries = [(key, value) for key, _, value in (line.partition("=") for line in lines)]
        self._credentials = root / "run/credentials" / name
        self._pid_file = root / "pids" / name

    def _first(self, name: str) -> str:
        return next(value for key, value in self._entries if key == name)

    def _environment(self) -> dict[str, str]:
        environment = {"PATH": os.environ["PATH"], "HOME": "/"}
        for variable, setting, base in (
            ("STATE_DIRECTORY", "StateDirectory", "var/lib"),
            ("RUNTIME_DIRECTORY", "RuntimeDirectory", "run"),
        ):
            folder = self._root / base / self._first(setting)
            folder.mkdir(mode=0o700, exist_ok=True)
            environment[variable] = str(folder)
        for key, value in self._entries:
            if key == "EnvironmentFile":
                lines = Path(value).read_text().splitlines()
                environment.update((name, text) for name, _, text in (line.partition("=") for line in lines))
            elif key == "Environment":
                name, _, text = value.replace("%d", str(self._credentials)).partition("=")
                environment[name] = text
        return environment

    def _give_credentials(self) -> None:
        self._credentials.mkdir(parents=True, exist_ok=True)
        for key, value in self._entries:
            if key == "LoadCredentialEncrypted":
                name, _, source = value.partition(":")
                shutil.copy(source, self._credentials / name)
                (self._credentials / name).chmod(0o600)

    def start(self) -> None:
        self._give_credentials()
        environment = self._environment()

        def expand(word: str) -> list[str]:
            if word.startswith("$") and word[1:].isidentifier():
                return environment[word[1:]].split()
            return [re.sub(r"[$][{](\w+)[}]", lambda found: environment[found[1]], word)]

        argv = [part for word in shlex.split(self._first("ExecStart")) for part in expand(word)]
        with (self._root / f"{self._name}.log").open("ab") as log:
            process = subprocess.Popen(
                argv, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self._pid_file.parent.mkdir(exist_ok=True)
        self._pid_file.write_text(str(process.pid))

    def stop(self) -> None:
        pid = int(self._pid_file.read_text())
        os.kill(pid, signal.SIGTERM)
        while _lives(pid):
            time.sleep(0.05)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def main(root: Path, verb: str, name: str) -> None:
    unit = Unit(root, name)
    if verb == "restart":
        unit.stop()
    unit.start()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], sys.argv[-1])

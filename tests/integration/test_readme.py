"""The session in the README is run as it stands, line by line, by a shell."""

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"<!-- session -->\n```console\n(.*?)```", re.DOTALL)


def commands() -> list[str]:
    """The lines after a prompt, joined with those that continue them."""
    text = "".join(BLOCK.findall((ROOT / "README.md").read_text()))
    found: list[str] = []
    goes_on = False
    for line in text.splitlines():
        if line.startswith("$ "):
            found.append(line[2:])
        elif goes_on:
            found[-1] += "\n" + line
        goes_on = (line.startswith("$ ") or goes_on) and line.endswith("\\")
    return found


@pytest.fixture
def session(tmp_path):
    """A shell in a folder of its own inside a stand-in for the clone; everything it started ends with it."""
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    folder = tmp_path / "s"
    folder.mkdir(mode=0o700)
    folder.chmod(0o700)
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"

    def run(script: str) -> subprocess.CompletedProcess[str]:
        # `timeout` ends the loops that wait, should what they wait for never come.
        command = ["timeout", "--signal=KILL", "300", "bash", "-euo", "pipefail", "-c", script]
        shell = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, "PATH": path},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        try:
            output, _ = shell.communicate(timeout=330)
            return subprocess.CompletedProcess(command, shell.returncode, output)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGKILL)

    return run


@pytest.mark.timeout(360)
def test_the_session_in_the_readme_works_as_it_stands(session):
    script = "\n".join(commands()) + "\nkill $(jobs -p); wait\n"

    done = session(f"set -x\nexec 2>&1\n{script}")

    assert done.returncode in {0, 143}, done.stdout
    assert '"key_name": "digits", "version": 1' in done.stdout
    assert "signed by CN=Example Vendor Package Signing" in done.stdout
    assert re.search(r'"prediction": ?\d', done.stdout), done.stdout
    assert shlex.split(commands()[0])[0] == "local-cloud"

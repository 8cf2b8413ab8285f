"""Reads a systemd unit: its settings in order, and the system calls that its filter leaves."""

import re
import shutil
import subprocess
from pathlib import Path

ANALYZE = shutil.which("systemd-analyze")


def settings(unit: Path) -> dict[str, list[str]]:
    """Return every setting's values in the order they stand, whatever section they are in."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().replace("\\\n", " ").splitlines():
        if line and line[0] not in "#[":
            name, value = line.split("=", 1)
            found.setdefault(name, []).append(value)
    return found


def allowed_calls(unit: Path) -> set[str]:
    """Return the system calls that the unit's lists leave, groups expanded by systemd's own tool.

    The first list says what is allowed; one that begins with a tilde takes away again.
    """
    allowed: set[str] = set()
    for number, value in enumerate(settings(unit)["SystemCallFilter"]):
        names = {name for word in value.removeprefix("~").split() for name in _expand(word)}
        assert number > 0 or not value.startswith("~"), "a filter that begins with a denial allows everything"
        allowed = allowed - names if value.startswith("~") else allowed | names
    return allowed


def _expand(word: str) -> set[str]:
    if not word.startswith("@"):
        return {word}
    shown = subprocess.run([ANALYZE, "syscall-filter", word], capture_output=True, text=True, check=True)
    members = re.findall(r"^ +(@?[a-z_][\w-]*)$", shown.stdout, re.MULTILINE)
    assert members, word
    return {name for member in members for name in _expand(member)}

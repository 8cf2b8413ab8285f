"""Reads the console blocks of a guide: what of it is run, and the commands without what they print."""

import re
from pathlib import Path

_BLOCK = re.compile(r"(<!-- run -->\n)?```console\n(.*?)```", re.DOTALL)


def blocks(guide: Path) -> list[tuple[bool, str]]:
    """Return every console block: whether it is run, and its commands with what they read."""
    found = []
    for run, text in _BLOCK.findall(guide.read_text()):
        lines: list[str] = []
        goes_on, end = False, None
        for line in text.splitlines():
            if line.startswith("$ "):
                lines.append(line[2:])
            elif goes_on or end is not None:
                lines.append(line)
            if end is not None and line == end:
                end = None
            elif line.startswith("$ ") and (here := re.search(r"<< '?(\w+)'?$", line)):
                end = here[1]
            goes_on = (line.startswith("$ ") or goes_on) and line.endswith("\\")
        found.append((bool(run), "\n".join(lines) + "\n"))
    return found

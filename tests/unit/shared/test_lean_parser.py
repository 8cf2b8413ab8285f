import argparse
import shutil
import subprocess
import sys

import pytest

from shared.command_line.lean_parser import LeanParser

SCRIPT = """
import sys
from shared.command_line.lean_parser import LeanParser
parser = LeanParser(prog="p")
parser.add_subparsers(dest="command").add_parser("run").add_argument("--many", nargs="+", metavar="X")
assert parser.parse_args(["run", "--many", "1", "2"]).many == ["1", "2"]
print("shutil" in sys.modules)
"""


@pytest.mark.parametrize("columns", ["", "0", "47", "200", "-3", "x"])
def test_help_is_what_argparse_prints(monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", columns)
    helps = []
    for kind in (LeanParser, argparse.ArgumentParser):
        parser = kind(prog="p", description="word " * 60)
        run = parser.add_subparsers(dest="command").add_parser("run")
        run.add_argument("--long-option", help="text " * 50)
        helps.append((parser.format_help(), run.format_help()))

    assert helps[0] == helps[1]
    assert shutil.get_terminal_size().columns > 0


def test_parsing_loads_no_archives():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)

    assert (done.stdout, done.stderr) == ("False\n", "")

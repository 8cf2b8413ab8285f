"""The command line as a whole: every command explains itself, and the man pages are what it says now."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from edb import parsers
from edb.man_pages import documented
from shared.command_line.completion import SHELLS, completion_script

ROOT = Path(__file__).resolve().parents[3]
GUIDE = ROOT / "docs" / "guides" / "edb.md"


@pytest.fixture(scope="module")
def commands():
    return parsers.command_parsers()


def test_every_command_of_the_help_has_a_module(commands):
    modules = {path.stem for path in (ROOT / "edb" / "commands").glob("*.py")} - {"__init__"}

    assert {name.replace(" ", "_") for name in commands} == modules


@pytest.mark.parametrize("name", parsers.COMMANDS)
def test_every_command_takes_json_and_shows_an_example(commands, name):
    options = {text for option in commands[name].declared() for text in option.option_strings}

    assert "--json" in options
    assert f"edb {name}" in commands[name].epilog.split("example", 1)[1]


@pytest.mark.parametrize("name", parsers.COMMANDS)
def test_every_argument_is_explained(commands, name):
    unexplained = [option.dest for option in commands[name].declared() if not option.help]

    assert unexplained == []


@pytest.mark.parametrize("name", parsers.COMMANDS)
def test_no_option_takes_a_secret(commands, name):
    options = {text for option in commands[name].declared() for text in option.option_strings}

    assert options.isdisjoint({"--function-key", "--token", "--password", "--code"})


def test_starting_one_command_loads_no_other():
    script = (
        "import sys; from edb.parsers import parse\n"
        "parse(['keys', 'list'])\n"
        "loaded = [name for name in sys.modules if name.startswith('edb.commands.')]\n"
        "heavy = {'azure', 'shtab'} & set(sys.modules)\n"
        "import json; print(json.dumps([loaded, sorted(heavy)]))"
    )

    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert json.loads(ran.stdout) == [["edb.commands.keys_list"], []]


def test_the_version_loads_nothing_but_the_entry():
    script = "import sys; from edb.main import main; main(['--version']); print(*sorted(sys.modules))"

    told = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=told)

    loaded = set(ran.stdout.splitlines()[1].split())
    assert loaded.isdisjoint({"argparse", "json", "shared.errors", "edb.parsers", "httpx"})


def test_man_pages_are_what_the_parsers_say():
    stored = {path.name: path.read_text() for path in (ROOT / "docs" / "man").glob("edb*.1")}

    assert stored == dict(documented().man_pages()), "renew them: python -m edb.man_pages docs/man"


def test_man_pages_name_every_option(commands):
    pages = documented().man_pages()

    for name, parser in commands.items():
        page = pages[f"edb-{name.replace(' ', '-')}.1"].replace("\\-", "-")
        options = [text for option in parser.declared() for text in option.option_strings]
        assert [text for text in options if f"{text}\\fR" not in page] == []


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_scripts_know_every_command_and_long_option(commands, shell):
    script = completion_script(parsers.build_parser(), shell, extra="operator")

    for name, parser in commands.items():
        assert name.split()[-1] in script
        for option in parser.declared():
            for text in option.option_strings:
                assert text.lstrip("-") in script


def test_every_edb_line_of_the_guide_parses_and_every_command_stands_there():
    lines = re.findall(r"^(?:\$ )?(edb .*?)\s*(?:#.*|\|.*|>.*|<.*)?$", GUIDE.read_text(), re.MULTILINE)

    assert len(lines) > 10
    for line in lines:
        parsers.parse([word.strip("'\"") for word in line.split()[1:]])
    assert [name for name in parsers.COMMANDS if f"edb {name}" not in GUIDE.read_text()] == []

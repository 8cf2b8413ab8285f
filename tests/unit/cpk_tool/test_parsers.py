"""The command line as a whole: every command explains itself, and the man pages are what it says now."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cpk_tool import config_file, parsers
from cpk_tool.man_pages import documented
from shared.command_line.completion import SHELLS, completion_script

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def commands():
    return parsers.command_parsers()


def test_every_command_of_the_help_has_a_module(commands):
    modules = {path.stem for path in (ROOT / "cpk_tool" / "commands").glob("*.py")} - {"__init__"}

    assert {name.replace("-", "_") for name in commands} == modules


@pytest.mark.parametrize("name", parsers.COMMANDS)
def test_every_command_takes_json_and_shows_an_example(commands, name):
    options = {text for option in commands[name].declared() for text in option.option_strings}

    assert "--json" in options
    assert f"  cpk-tool {name}" in commands[name].epilog.split("example", 1)[1]


@pytest.mark.parametrize("name", parsers.COMMANDS)
def test_every_argument_is_explained(commands, name):
    unexplained = [option.dest for option in commands[name].declared() if not option.help]

    assert unexplained == []


def test_starting_one_command_loads_no_other():
    script = (
        "import sys; from cpk_tool.parsers import parse\n"
        "parse(['list'])\n"
        "loaded = [name for name in sys.modules if name.startswith('cpk_tool.commands.')]\n"
        "heavy = {'azure', 'httpx', 'pkcs11', 'shtab', 'rich', 'cryptography'} & set(sys.modules)\n"
        "import json; print(json.dumps([loaded, sorted(heavy - {'cryptography'})]))"
    )

    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)

    assert json.loads(ran.stdout) == [["cpk_tool.commands.list"], []]


def test_the_version_loads_nothing_but_the_entry():
    script = "import sys; from cpk_tool.main import main; main(['--version']); print(*sorted(sys.modules))"

    # Measuring coverage loads modules of its own into every process that is told of it.
    told = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=told)

    loaded = set(ran.stdout.splitlines()[1].split())
    assert loaded.isdisjoint({"argparse", "json", "shared.errors", "cpk_tool.parsers", "cryptography"})


def test_man_pages_are_what_the_parsers_say():
    stored = {path.name: path.read_text() for path in (ROOT / "docs" / "man").glob("cpk-tool*.1")}

    assert stored == dict(documented().man_pages()), "renew them: python -m cpk_tool.man_pages docs/man"


def test_man_pages_name_every_option(commands):
    pages = documented().man_pages()

    for name, parser in commands.items():
        page = pages[f"cpk-tool-{name}.1"].replace("\\-", "-")
        options = [text for option in parser.declared() for text in option.option_strings]
        assert [text for text in options if f"{text}\\fR" not in page] == []


def test_no_line_of_a_man_page_is_taken_for_a_command_by_mistake():
    known = {".TH", ".ad", ".SH", ".B", ".BR", ".TP", ".PP", ".nf", ".fi"}

    for page in documented().man_pages().values():
        found = {line.split()[0] for line in page.splitlines() if line.startswith((".", "'"))}
        assert found <= known


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_scripts_know_every_command_and_long_option(commands, shell):
    script = completion_script(parsers.build_parser(), shell, extra="tool")

    for name, parser in commands.items():
        assert name in script
        for option in parser.declared():
            for text in option.option_strings:
                assert text.lstrip("-") in script


def test_the_example_of_the_build_help_is_a_config_that_reads(commands, tmp_path):
    example = commands["build"].epilog.partition("cpk.toml:\n")[2]
    (tmp_path / "cpk.toml").write_text("\n".join(line.strip() for line in example.splitlines()))

    config = config_file.read_config(tmp_path / "cpk.toml", commands["build"].declared())

    assert config.problems == ()
    assert config.values["application_id"] == "my_app"

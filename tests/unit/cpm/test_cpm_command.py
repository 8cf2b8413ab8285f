"""The command line, the guide and the service file say the same."""

import re
import shlex
from pathlib import Path

import pytest

from cpm.main import build_parser, main

ROOT = Path(__file__).resolve().parents[3]
GUIDE = (ROOT / "docs" / "guides" / "device-cpm.md").read_text()
UNIT = (ROOT / "infra" / "edge" / "cpm.service").read_text()


def _serve_options():
    parser = build_parser("/run/cpm/cpm.sock")
    (commands,) = [action for action in parser._actions if action.dest == "command"]
    options = {word for action in commands.choices["serve"]._actions for word in action.option_strings}
    return {option for option in options if option.startswith("--")} - {"--help"}


def test_guide_tells_every_option_and_no_other():
    table = GUIDE.split("| option | meaning |")[1].split("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("|")]

    told = {option for cell in cells for option in re.findall(r"`(--[a-z-]+)", cell)}
    assert told == _serve_options() - {"--log-level"}


def test_service_file_starts_the_command_that_exists():
    command = re.search(r"^ExecStart=(.*?)(?<!\\)$", UNIT, re.MULTILINE | re.DOTALL)[1].replace("\\\n", " ")
    words = [word for word in shlex.split(command) if word != "$CPM_OPTIONS"]

    arguments = build_parser("/run/cpm/cpm.sock").parse_args(words[1:])

    assert words[0] == "/usr/bin/cpm"
    assert arguments.command == "serve"
    assert arguments.release_key == ["/etc/cpm/release-signing.pem"]


@pytest.mark.parametrize(
    "line",
    [
        "NoNewPrivileges=yes",
        "ProtectSystem=strict",
        "PrivateNetwork=yes",
        "CapabilityBoundingSet=",
        "LimitCORE=0",
        "UMask=0077",
        "User=cpm",
    ],
)
def test_service_is_sandboxed(line):
    assert line in UNIT.splitlines()


@pytest.mark.parametrize(
    "words", [[], ["nonsense"], ["serve"], ["run"], ["serve", "--allow-uid", "-1"], ["status", "--bogus"]]
)
def test_wrong_usage_ends_with_2(words, capsys):
    with pytest.raises(SystemExit) as ended:
        main(words)

    assert ended.value.code == 2
    assert "usage: cpm" in capsys.readouterr().err


SERVE = ["serve", "--state=s", "--audience=a", "--device-id=d", "--release-key=r", "--trust=t", "--quota"]


@pytest.mark.parametrize(("text", "quota"), [("1", 1), ("5K", 5 << 10), ("512M", 512 << 20), ("2G", 2 << 30)])
def test_quota_is_bytes_with_a_unit(text, quota):
    assert build_parser("s").parse_args([*SERVE, text]).quota == quota


@pytest.mark.parametrize("text", ["0", "-1", "", "1T", "1.5G", "5k", "G", "9999999999"])
def test_quota_that_is_no_size_is_wrong_usage(text, capsys):
    with pytest.raises(SystemExit):
        build_parser("s").parse_args([*SERVE, text])

    assert "--quota: expected" in capsys.readouterr().err


def test_missing_cpm_is_told_with_a_hint(tmp_path, capsys):
    assert main(["status", "--socket", str(tmp_path / "cpm.sock")]) == 1

    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("cpm: error: no cpm at ")
    assert "hint: " in told.err

"""What is printed, where, and the exit status that goes with an error."""

import json

import pytest

from cpk_tool import output
from cpk_tool.main import main
from shared.errors import (
    Conflict,
    FormatError,
    KeyUnavailable,
    NotFound,
    PolicyDenied,
    TransportError,
    VerificationError,
)


@pytest.mark.parametrize(
    ("error", "status", "result"),
    [
        (output.UsageError("x"), 2, "usage"),
        (VerificationError("x"), 3, "refused"),
        (PolicyDenied("x"), 3, "refused"),
        (KeyUnavailable("x"), 3, "refused"),
        (FormatError("x"), 1, "malformed"),
        (NotFound("x"), 1, "failed"),
        (Conflict("x"), 1, "failed"),
        (TransportError("x"), 1, "failed"),
    ],
)
def test_every_error_has_its_exit_status(capsys, error, status, result):
    output.print_failure(error)

    assert output.exit_status(error) == status
    assert json.loads(capsys.readouterr().out)["result"] == result


def test_errors_and_warnings_go_to_standard_error(capsys):
    output.report_error("it failed", "do this")
    output.warn("look")

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == "cpk-tool: error: it failed\nhint: do this\ncpk-tool: warning: look\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [("plain ünïcode", "plain ünïcode"), ("a\x1b[2Jb\n", "a\\x1b[2Jb\\n"), ("\u202e", "\\u202e")],
)
def test_what_a_terminal_would_obey_is_escaped(text, shown):
    assert output.printable(text) == shown


def test_tables_align(capsys):
    output.print_table(("n", "what"), [(1, "a"), (10, "bb")])

    assert capsys.readouterr().out == "   n  what\n   1  a\n  10  bb\n"


def test_main_reports_a_file_that_cannot_be_read(capsys):
    assert main(["inspect", "/nonexistent"]) == 1
    assert capsys.readouterr().err == "cpk-tool: error: /nonexistent: no such file or directory\n"


def test_version_needs_no_command(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("cpk-tool ")


@pytest.mark.parametrize(
    ("arguments", "status", "result", "code"),
    [
        (["--json"], 2, "usage", "usage"),
        (["explode", "--json"], 2, "usage", "usage"),
        (["inspect", "--json", "a", "b"], 2, "usage", "usage"),
        (["build", "--json", "--segment-size", "much"], 2, "usage", "usage"),
        (["build", "--json"], 2, "usage", "settings_invalid"),
        (["inspect", "--json", "/nonexistent"], 1, "failed", "io_error"),
        (["inspect", "--json", "/dev/null"], 1, "malformed", "malformed"),
    ],
)
def test_an_error_of_any_kind_is_one_json_document(capsys, arguments, status, result, code):
    assert main(arguments) == status

    written = capsys.readouterr()
    document = json.loads(written.out)
    assert (document["result"], document["code"]) == (result, code)
    assert f"cpk-tool: error: {document['message']}\n" in written.err


def test_without_the_option_an_error_writes_nothing_to_standard_output(capsys):
    assert main(["explode"]) == 2
    assert capsys.readouterr().out == ""

"""Commands are tried again while they fail, never when they refuse."""

import os

import pytest

from local_cloud.demo.commands import Commands
from local_cloud.demo.waiting import until
from shared.errors import EdbError, TransportError


@pytest.fixture
def commands(tmp_path):
    """Commands that stand in a folder of their own; each test writes the one that it needs."""
    return Commands(folder=tmp_path, environment=os.environ)


def write(commands, name, script):
    path = commands.folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def test_returns_what_a_command_prints(commands):
    write(commands, "echo-all", 'echo "$2 $3"; cat')
    assert commands.ask("echo-all", "sub", "one", "two", stdin="three\n") == "one two\nthree\n"


def test_a_command_that_fails_is_tried_again(commands):
    marker = commands.folder / "second-time"
    write(commands, "flaky", f"if [ -e {marker} ]; then echo ok; else touch {marker}; exit 1; fi")
    assert commands.ask("flaky", "sub") == "ok\n"


def test_a_command_that_is_killed_is_tried_again(commands):
    marker = commands.folder / "second-time"
    write(commands, "killed", f"if [ -e {marker} ]; then echo ok; else touch {marker}; kill -9 $$; fi")
    assert commands.ask("killed", "sub") == "ok\n"


@pytest.mark.parametrize("status", [2, 3])
def test_a_command_that_refuses_or_is_misused_is_not_tried_again(commands, status):
    count = commands.folder / "count"
    write(commands, "refuser", f"echo x >> {count}; echo 'refuser: error: no' >&2; exit {status}")
    with pytest.raises(EdbError, match=f"refuser sub: exit {status}: refuser: error: no"):
        commands.ask("refuser", "sub")
    assert count.read_text() == "x\n"


def test_a_refusal_gives_its_reason(commands):
    write(commands, "refuser", "echo 'refuser: error: key revoked' >&2; exit 3")
    assert commands.refusal("refuser", "sub") == "refuser: error: key revoked"


def test_what_must_be_refused_and_is_not_is_an_error_at_once(commands):
    write(commands, "yes-man", "exit 0")
    with pytest.raises(EdbError, match="expected exit 3, found 0") as raised:
        commands.refusal("yes-man", "sub")
    assert raised.value.code == "not_refused"


def test_json_is_an_object_or_an_error(commands):
    write(commands, "printer", 'echo "$2"')
    assert commands.ask_json("printer", "sub", '{"a": 1}') == {"a": 1}
    for text in ("[]", "nothing"):
        with pytest.raises(EdbError, match="expected"):
            commands.ask_json("printer", "sub", text)


def test_a_command_that_is_not_there_is_named(commands):
    with pytest.raises(EdbError, match=r"cannot start .*/absent: No such file"):
        commands.run("absent", "sub")


def test_waiting_ends_with_the_last_fault_when_the_time_is_over():
    def look():
        raise TransportError("nobody listens")

    with pytest.raises(TransportError, match="start of it: not within 0 s: nobody listens") as raised:
        until(look, what="start of it", seconds=0)
    assert raised.value.code == "timeout"


def test_waiting_goes_on_through_passing_faults():
    answers = iter([TransportError("not yet"), None, 7])

    def look():
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert until(look, what="it") == 7


def test_waiting_does_not_go_on_through_any_other_fault():
    def look():
        raise EdbError("for good")

    with pytest.raises(EdbError, match="for good"):
        until(look, what="it")

import sys
import time
from pathlib import Path

import pytest

from device_agent.bounded_command import NOT_STARTED, TIMED_OUT, TOO_MUCH_OUTPUT, run_command
from shared.errors import TransportError


@pytest.fixture
def eventually():
    def wait(condition, *, what):
        deadline = time.monotonic() + 30
        while not condition():
            assert time.monotonic() < deadline, what
            time.sleep(0.02)

    return wait


def python(code, **options):
    limits = {"seconds": 60, "limit": 4096, **options}
    return run_command([sys.executable, "-I", "-S", "-c", code], **limits)


def test_command_reads_its_input_and_answers_on_both_outputs():
    done = python(
        "import sys; t = sys.stdin.read(); print(t.upper()); print(len(t), file=sys.stderr); sys.exit(3)",
        stdin=b"abc",
    )

    assert (done.status, done.stdout, done.stderr) == (3, b"ABC\n", b"3\n")


def test_command_that_does_not_want_its_input_is_not_forced():
    assert python("print('done')", stdin=b"x" * 1_000_000).stdout == b"done\n"


def test_command_gets_what_is_named_and_no_secret_of_the_agent(monkeypatch):
    monkeypatch.setenv("DEVICE_AGENT_CONNECTION_STRING", "secret")

    done = python("import os; print(sorted(os.environ))", environment={"CPK_DEVICE_ID": "edge-01"})

    assert b"CPK_DEVICE_ID" in done.stdout
    assert b"DEVICE_AGENT" not in done.stdout


def test_command_that_hangs_ends_at_its_limit_with_everything_it_started(tmp_path, eventually):
    code = (
        "import os, time\n"
        f"pid = os.fork()\nif pid: open({str(tmp_path / 'child')!r}, 'w').write(str(pid))\n"
        "time.sleep(600)"
    )

    with pytest.raises(TransportError) as caught:
        python(code, seconds=15)

    assert caught.value.code == TIMED_OUT
    eventually(lambda: not lives(int((tmp_path / "child").read_text())), what="the end of its child")


def lives(pid):
    """Say whether a process runs; whoever adopts orphans here may be late to bury the dead."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def test_command_whose_child_keeps_the_output_open_ends_at_its_limit():
    with pytest.raises(TransportError) as caught:
        python("import os, time\nif os.fork() == 0: time.sleep(600)", seconds=2)

    assert caught.value.code == TIMED_OUT


def test_command_that_writes_without_end_is_stopped():
    with pytest.raises(TransportError) as caught:
        python("import os\nwhile True: os.write(1, b'x' * 4096)", limit=10_000)

    assert caught.value.code == TOO_MUCH_OUTPUT


@pytest.mark.parametrize("program", ["/no/such/program", "/etc/hostname", "a\0b"])
def test_command_that_cannot_be_started_is_named_and_its_arguments_are_not(program):
    with pytest.raises(TransportError) as caught:
        run_command([program, "wrapped-key"], seconds=5, limit=100)

    assert caught.value.code == NOT_STARTED
    assert program.strip("\0") in str(caught.value)
    assert "wrapped-key" not in str(caught.value)

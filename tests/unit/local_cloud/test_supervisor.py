import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest

from local_cloud import supervisor
from local_cloud.supervisor import Child, ChildSettings
from shared.errors import TransportError

WELL_BEHAVED = """
import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print(f"ready url=https://127.0.0.1:{listener.getsockname()[1]}", flush=True)
sys.stdin.read()
"""
STUBBORN = """
import signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready https=1", flush=True)
while True:
    time.sleep(60)
"""
FAILING = 'import sys; sys.stderr.write(\'{"event": "x"}\\nthing: error: no such luck\\n\'); sys.exit(1)'
SILENT = "import sys; sys.exit(3)"
CONFUSED = "print('hello', flush=True); import sys; sys.stdin.read()"
CURIOUS = """
import os, sys
sys.stderr.write("error: " + ",".join(sorted(os.environ)))
"""


def child(folder, code, port=0, environment=()):
    settings = ChildSettings(
        name="thing",
        command=lambda port: [sys.executable, "-c", code, str(port)],
        environment=lambda: dict(environment),
        log=folder / "thing.log",
        pid_file=folder / "thing.pid",
    )
    return Child(settings, port)


def pid(folder):
    """Return the child's process id, 0 while it has none."""
    try:
        return int((folder / "thing.pid").read_text())
    except FileNotFoundError:
        return 0


async def until(condition):
    async with asyncio.timeout(120):
        while not condition():  # noqa: ASYNC110 - another process has no event here
            await asyncio.sleep(0.01)


def alive(number):
    try:
        return Path(f"/proc/{number}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_a_child_tells_its_port_and_ends_when_it_is_stopped(tmp_path):
    async def scenario():
        thing = child(tmp_path, WELL_BEHAVED)
        port = await thing.start()
        number = pid(tmp_path)
        assert (port > 0, thing.port, alive(number)) == (True, port, True)
        await thing.stop()
        assert not alive(number)
        assert not (tmp_path / "thing.pid").exists()

    asyncio.run(scenario())


def test_a_child_that_is_killed_is_started_again_on_its_port(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "FIRST_DELAY", 0.01)

    async def scenario():
        thing = child(tmp_path, WELL_BEHAVED)
        port = await thing.start()
        watch = asyncio.create_task(thing.watch())
        for _ in range(2):
            before = pid(tmp_path)
            os.kill(before, signal.SIGKILL)
            await until(lambda before=before: pid(tmp_path) != before and alive(pid(tmp_path)))
        await until(lambda: thing.port == port)
        watch.cancel()
        await thing.stop()

    asyncio.run(scenario())


def test_a_child_that_does_not_end_by_itself_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor, "STOP_SECONDS", 0.2)

    async def scenario():
        thing = child(tmp_path, STUBBORN)
        await thing.start()
        number = pid(tmp_path)
        await thing.stop()
        return number

    assert not alive(asyncio.run(scenario()))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (FAILING, "thing did not start: no such luck"),
        (SILENT, "it said nothing"),
        (CONFUSED, "did not start"),
    ],
)
def test_a_child_that_does_not_get_ready_fails_the_start_with_its_own_words(tmp_path, code, message):
    thing = child(tmp_path, code)
    with pytest.raises(TransportError, match=message) as caught:
        asyncio.run(thing.start())
    assert caught.value.hint == f"its log: {tmp_path / 'thing.log'}"
    assert not (tmp_path / "thing.pid").exists()


def test_words_of_an_earlier_start_are_not_repeated(tmp_path):
    (tmp_path / "thing.log").write_text("thing: error: old trouble\n")
    with pytest.raises(TransportError, match="it said nothing"):
        asyncio.run(child(tmp_path, SILENT).start())


def test_a_child_has_no_environment_but_the_one_it_is_given(tmp_path, monkeypatch):
    monkeypatch.setenv("SECRET_OF_THE_CALLER", "x")
    with pytest.raises(TransportError) as caught:
        asyncio.run(child(tmp_path, CURIOUS, environment={"PLAIN": "1", "LC_ALL": "C"}).start())
    assert "PLAIN" in str(caught.value)
    assert "SECRET_OF_THE_CALLER" not in str(caught.value)

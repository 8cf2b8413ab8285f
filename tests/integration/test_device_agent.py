"""The agent as a process, between a twin hub and a CPM that are processes too, over TLS and a Unix socket."""

import base64
import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from simulators.device_processes import DEVICE_ID, DEVICE_KEY, DeviceProcesses
from simulators.releasing_cloud import ReleasingCloud

from shared.errors import TransportError
from shared.keys.kcv import key_check_value
from shared.keys.wrapping import WrapContext
from shared.types import Audience, KeyName
from shared.wire.cpm_channel import connect

APP = KeyName("my_confidential_app")


@pytest.fixture
def device(hub_process, tmp_path):
    folder = tmp_path / "device"
    folder.mkdir()
    device = DeviceProcesses(hub_process, folder)
    device.register_with_key()
    try:
        device.start_cpm()
        yield device
    finally:
        device.close()


def test_key_goes_from_report_to_acknowledgement(device, eventually):
    device.start_agent()
    eventually(lambda: device.status() is not None, what="the first report")

    device.release(7, {APP: 3})

    eventually(lambda: device.has_installed(7, {APP: 3}), what="the acknowledgement")
    kcv = key_check_value(
        device.cloud.class_key(APP, 3),
        context=WrapContext(audience=Audience("test"), device_id=DEVICE_ID, name=APP, version=3),
    )
    assert device.status().keys[APP].kcv == kcv
    [applied] = device.logged("release_applied")
    assert (applied["sequence"], applied["keys"], applied["device_id"]) == (7, {APP: 3}, DEVICE_ID)
    assert [line["event"] for line in device.events()][:3] == ["connected", "key_reported", "status_reported"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_agent_in_order(device, eventually, number):
    device.start_agent()
    eventually(lambda: device.status() is not None, what="the first report")

    device.agent.send_signal(number)

    assert device.agent.wait(timeout=30) == 0
    assert device.events()[-1]["event"] == "stopped"


NEVER_POLLS = """
import sys
import device_agent.main, device_agent.sync
device_agent.sync.POLL_SECONDS = 1e9
sys.exit(device_agent.main.main(sys.argv[1:]))
"""


def test_signal_that_another_thread_gets_ends_an_agent_that_waits_for_good(device, eventually):
    command = [sys.executable, "-c", NEVER_POLLS, *device.command("run")[1:]]
    with device.log_file.open("ab") as log:
        device.agent = subprocess.Popen(command, stderr=log)
    eventually(lambda: device.status() is not None, what="the first report")
    threads = {int(task.name) for task in Path(f"/proc/{device.agent.pid}/task").iterdir()}

    # Linux gives a signal to the thread that is named, though it is the process's.
    os.kill(max(threads - {device.agent.pid}), signal.SIGTERM)

    assert device.agent.wait(timeout=90) == 0
    assert device.events()[-1]["event"] == "stopped"


@pytest.mark.parametrize("victim", ["agent", "cpm", "hub"])
def test_killed_process_comes_back_into_the_same_final_state(device, eventually, victim):
    device.start_agent()
    eventually(lambda: device.status() is not None, what="the first report")
    device.release(7, {APP: 1, "other": 1})
    eventually(lambda: device.has_installed(7, {APP: 1, "other": 1}), what="the acknowledgement")

    if victim == "hub":
        device.hub.restart()
        device.release(8, {APP: 2})
    else:
        device.kill(victim)
        device.release(8, {APP: 2})
        getattr(device, f"start_{victim}")()

    eventually(lambda: device.has_installed(8, {APP: 2}), what="the release made meanwhile")


def test_hub_that_lost_its_sessions_is_subscribed_to_again(device, eventually):
    device.start_agent()
    eventually(lambda: device.status() is not None, what="the first report")
    device.hub.kill()
    with contextlib.closing(sqlite3.connect(device.hub.folder / "hub" / "hub.db")) as database:
        database.execute("DELETE FROM session")
        database.commit()
    device.hub.start()
    eventually(lambda: len(device.logged("connected")) == 2, what="the reconnect")

    device.release(7, {APP: 1})

    eventually(lambda: device.has_installed(7, {APP: 1}), what="the acknowledgement")


def test_release_signed_by_another_key_is_refused_and_reported(device, eventually):
    device.start_agent()
    eventually(lambda: device.status() is not None, what="the first report")
    pinned, device.cloud.release_key = device.cloud.release_key, ReleasingCloud().release_key

    device.release(7, {APP: 1})

    status = eventually(
        lambda: (status := device.status()) and APP in status.keys and status, what="the refusal"
    )
    assert (status.keys[APP].state, status.keys[APP].error) == ("error", "signature_invalid")
    assert [line["code"] for line in device.logged("release_refused")] == ["signature_invalid"]
    device.cloud.release_key = pinned
    device.release(8, {APP: 1})
    eventually(lambda: device.has_installed(8, {APP: 1}), what="the release that replaces it")


def test_second_agent_on_the_same_state_is_refused(device, eventually):
    device.start_agent()
    eventually(lambda: device.status() is not None, what="the first report")

    second = device.ask_agent("run")

    assert second.returncode == 1
    assert "another agent uses it" in second.stderr


def test_wrong_device_key_is_told_plainly_and_nothing_leaks(device, eventually):
    wrong = base64.b64encode(b"w" * 32).decode()
    text = (device.folder / "connection").read_text().replace(DEVICE_KEY, wrong)
    (device.folder / "connection").write_text(text)

    device.start_agent()

    failures = eventually(lambda: device.logged("connect_failed"), what="the refusal")
    assert failures[0]["code"] == "hub_unauthorized"
    assert wrong not in device.log_file.read_text()
    assert "SharedAccess" not in device.log_file.read_text()


def test_nothing_that_only_the_cpm_may_know_stands_in_the_agent_files(device, eventually):
    device.start_agent()
    eventually(lambda: device.status() is not None, what="the first report")
    device.release(7, {APP: 1})
    eventually(lambda: device.has_installed(7, {APP: 1}), what="the acknowledgement")

    class_key = device.cloud.class_key(APP, 1).reveal()
    files = [device.log_file, *(device.folder / "agent").iterdir()]
    assert len(files) >= 3
    for file in files:
        data = file.read_bytes()
        for form in (class_key, class_key.hex().encode(), base64.b64encode(class_key)):
            assert form not in data
        assert DEVICE_KEY.encode() not in data


def test_cpm_that_is_not_there_is_waited_for(device, eventually):
    device.kill("cpm")
    device.start_agent()
    eventually(lambda: device.logged("cpm_unavailable"), what="the complaint")
    with pytest.raises(TransportError):
        connect(str(device.socket), timeout=1)

    device.start_cpm()

    eventually(lambda: device.status() is not None, what="the first report")

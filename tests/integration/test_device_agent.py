"""The agent as a process, between a twin hub and a CPM that are processes too, over TLS and a Unix socket."""

import base64
import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import Twin, TwinProperties
from simulators.releasing_cloud import ReleasingCloud

from shared.errors import TransportError
from shared.keys.kcv import key_check_value
from shared.keys.wrapping import WrapContext
from shared.twin.documents import desired_patch, parse_public_key, parse_status
from shared.types import Audience, DeviceId, KeyName
from shared.wire.cpm_channel import connect

DEVICE_ID = DeviceId("edge-01")
DEVICE_KEY = base64.b64encode(b"k" * 32).decode()
APP = KeyName("my_confidential_app")


class DeviceProcesses:
    """The CPM and the agent of one device, and what the cloud does for it."""

    def __init__(self, hub, folder: Path) -> None:
        self.hub, self.folder = hub, folder
        self.cloud = ReleasingCloud()
        self.registry = IoTHubRegistryManager.from_connection_string(hub.service_connection_string)
        self.registry.create_device_with_sas(DEVICE_ID, DEVICE_KEY, DEVICE_KEY, "enabled")
        self.socket = folder / "cpm.sock"
        self.log_file = folder / "agent.log"
        (folder / "release.pem").write_bytes(self.cloud.release_key_pem())
        (folder / "connection").write_text(
            f"HostName={hub.address};DeviceId={DEVICE_ID};SharedAccessKey={DEVICE_KEY}"
        )
        (folder / "connection").chmod(0o600)
        (folder / "agent.toml").write_text(
            f'connection_string_file = "{folder}/connection"\n'
            f'ca_file = "{hub.ca_file}"\n'
            f'cpm_socket = "{self.socket}"\n'
            f'state_dir = "{folder}/agent"\n'
        )
        self.cpm: subprocess.Popen | None = None
        self.agent: subprocess.Popen | None = None

    def start_cpm(self) -> None:
        command = [
            *(Path(sys.executable).with_name("cpm"), "serve", "--state", self.folder / "cpm"),
            *("--socket", self.socket, "--audience", "test", "--device-id", DEVICE_ID),
            *("--release-key", self.folder / "release.pem", "--trust", self.hub.ca_file),
        ]
        with (self.folder / "cpm.log").open("ab") as log:
            self.cpm = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        line = self.cpm.stdout.readline()
        assert line.startswith("ready"), (self.folder / "cpm.log").read_text()

    def start_agent(self) -> None:
        command = [Path(sys.executable).with_name("device-agent"), "run", "--config"]
        with self.log_file.open("ab") as log:
            self.agent = subprocess.Popen([*command, self.folder / "agent.toml"], stderr=log)

    def kill(self, name: str) -> None:
        """End a process as a power cut would."""
        process = getattr(self, name)
        process.kill()
        process.wait(timeout=30)

    def close(self) -> None:
        for process in (self.agent, self.cpm):
            if process is not None:
                process.kill()
                process.wait(timeout=30)
                if process.stdout is not None:
                    process.stdout.close()

    def reported(self) -> dict:
        return self.registry.get_twin(DEVICE_ID).properties.reported

    def status(self):
        with contextlib.suppress(KeyError):
            return parse_status(self.reported())
        return None

    def release(self, sequence: int, versions: dict[str, int]) -> None:
        """Do what the function app does: wrap for the key that the device reports, sign, write desired."""
        twin = self.registry.get_twin(DEVICE_ID)
        spki = parse_public_key(twin.properties.reported).spki
        cose, wrapped = self.cloud.release(spki, sequence=sequence, keys=versions)
        removed = set(twin.properties.desired.get("confidential_package_keys", {})) - set(wrapped)
        patch = desired_patch(wrapped=wrapped, removed=removed, release=cose)
        self.registry.update_twin(DEVICE_ID, Twin(properties=TwinProperties(desired=patch)))

    def has_installed(self, sequence: int, versions: dict[str, int]) -> bool:
        status = self.status()
        return (
            status is not None
            and status.sequence == sequence
            and {name: key.version for name, key in status.keys.items()} == versions
            and all(key.state == "installed" for key in status.keys.values())
        )

    def events(self) -> list[dict]:
        lines = self.log_file.read_text().splitlines()
        return [json.loads(line) for line in lines]

    def logged(self, event: str) -> list[dict]:
        return [line for line in self.events() if line["event"] == event]


@pytest.fixture
def device(hub_process, tmp_path):
    folder = tmp_path / "device"
    folder.mkdir()
    device = DeviceProcesses(hub_process, folder)
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

    command = [Path(sys.executable).with_name("device-agent"), "run", "--config"]
    second = subprocess.run(
        [*command, device.folder / "agent.toml"], capture_output=True, text=True, timeout=60, check=False
    )

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

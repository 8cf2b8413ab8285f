"""The field: two agents with one identity, a clock of 1970, floods, new keys, a reference CPM, diagnoses."""

import base64
import contextlib
import json
import sys
import types
import urllib.request
from pathlib import Path

import pytest
from azure.iot.device.common.auth import sastoken
from simulators.device_processes import DEVICE_ID, DEVICE_KEY, DeviceProcesses
from simulators.reference_tool import ReferenceTool

from device_agent.adapters.iot_hub_device import IotHubDevice
from device_agent.twin_link import UNAUTHORIZED
from local_cloud.certificates import certificate_pem, create_authority, issue_device
from shared.certificates import leaf_public_key
from shared.errors import TransportError
from shared.twin.documents import parse_certificates, parse_public_key
from shared.types import KeyName, Secret, WrapAlgorithm

APP = KeyName("my_confidential_app")

# Asks a certificate authority that is a folder; the agent's key comes on standard input.
RENEW = """
import os, pathlib, sys
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from local_cloud.certificates import Authority, certificate_pem, issue_device
folder = pathlib.Path(sys.argv[1])
ca = Authority.load(folder / "ca.pem", folder / "ca.key")
key = load_pem_public_key(sys.stdin.buffer.read())
spki = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
with (folder / "issued").open("a") as log:
    log.write(os.environ["CPK_REASON"] + "\\n")
sys.stdout.buffer.write(certificate_pem(issue_device(ca, os.environ["CPK_DEVICE_ID"], spki, days=90)))
"""


@pytest.fixture
def device(hub_process, tmp_path):
    folder = tmp_path / "device"
    folder.mkdir()
    device = DeviceProcesses(hub_process, folder)
    device.register_with_key()
    try:
        yield device
    finally:
        device.close()


def reported_spki(device):
    key = parse_public_key(device.reported())
    return None if key is None else key.spki


def give_renewal(device, folder):
    """Set a renewal command whose authority lies in ``folder``."""
    folder.mkdir()
    create_authority("Fleet CA", days=900).save(folder / "ca.pem", folder / "ca.key")
    device.settings["renewal_command"] = [sys.executable, "-c", RENEW, str(folder)]
    device.settings["device_roots_file"] = str(folder / "ca.pem")


def give_reference_tool(device, folder):
    """Replace the CPM by a stand-in for the reference's tool."""
    tool = ReferenceTool(folder)
    del device.settings["cpm_socket"]
    device.settings |= {
        "cpm_tool": str(tool.path),
        "audience": "test",
        "release_keys_file": str(device.folder / "release.pem"),
    }
    device.algorithm = WrapAlgorithm.RSA1_5
    return tool


@pytest.mark.timeout(500)  # waits add up on a machine with much else to do
def test_two_agents_with_one_identity_back_off_and_say_so(device, hub_process, tmp_path, eventually):
    (tmp_path / "twin").mkdir()
    other = DeviceProcesses(hub_process, tmp_path / "twin")
    other.settings = {**device.settings, "state_dir": str(tmp_path / "twin" / "agent")}
    device.settings["health_file"] = str(tmp_path / "health.json")
    device.start_cpm()
    with contextlib.closing(other):
        device.start_agent()
        other.start_agent()

        eventually(
            lambda: (
                device.logged("duplicate_identity_suspected") + other.logged("duplicate_identity_suspected")
            ),
            seconds=300,
            what="the suspicion",
        )

        connections = len(device.logged("connected")) + len(other.logged("connected"))
        assert connections <= 20


def test_token_of_a_device_whose_clock_says_1970_is_refused_and_works_once_it_is_right(
    device, hub_process, monkeypatch
):
    text = f"HostName={hub_process.address};DeviceId={DEVICE_ID};SharedAccessKey={DEVICE_KEY}"
    link = IotHubDevice.from_connection_string(
        Secret(text.encode()), device_id=DEVICE_ID, ca_pem=hub_process.ca_file.read_text()
    )
    with monkeypatch.context() as patch:
        patch.setattr(sastoken, "time", types.SimpleNamespace(time=lambda: 7.0))
        with pytest.raises(TransportError) as caught:
            link.connect(lambda _event: None)
        assert caught.value.code == UNAUTHORIZED

    link.connect(lambda _event: None)

    assert link.get_twin().desired.version >= 1
    assert link.close(seconds=30)


def test_flood_of_desired_patches_leaves_memory_and_disk_as_they_were(device, eventually):
    device.start_cpm()
    device.start_agent()
    eventually(lambda: device.status() is not None, what="the first report")
    device.release(7, {APP: 1})
    eventually(lambda: device.has_installed(7, {APP: 1}), what="the first release")
    before = resident_kib(device.agent.pid)

    for number in range(300):
        device.desire({"noise": {f"name-{number % 7}": f"{number}-" + "x" * 3000}})
    device.release(8, {APP: 2})

    eventually(lambda: device.has_installed(8, {APP: 2}), seconds=60, what="the release behind the flood")
    assert resident_kib(device.agent.pid) < before + 8 * 1024
    state = sum(file.stat().st_size for file in (device.folder / "agent").iterdir())
    assert state < 4096
    assert device.log_file.stat().st_size < 64 * 1024


def resident_kib(pid):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


@pytest.mark.timeout(500)  # waits add up on a machine with much else to do
def test_certificate_is_asked_for_reported_and_asked_for_again_when_the_key_changes(
    device, tmp_path, eventually
):
    give_renewal(device, tmp_path / "ca")
    tool = give_reference_tool(device, tmp_path / "reference")
    device.start_agent()

    def reports_a_fitting_certificate():
        reported = device.reported()  # read once: it changes while this looks
        chain, key = parse_certificates(reported), parse_public_key(reported)
        return chain and key is not None and leaf_public_key(chain[0]) == key.spki and key.spki

    first = eventually(reports_a_fitting_certificate, seconds=60, what="the first certificate")
    tool.unload()

    eventually(
        lambda: reports_a_fitting_certificate() not in {False, (), first},
        seconds=90,
        what="the new key with a certificate of its own",
    )
    assert (tmp_path / "ca" / "issued").read_text().split() == ["missing", "key_changed"]
    assert len(device.logged("certificate_renewed")) == 2


@pytest.mark.timeout(500)  # waits add up on a machine with much else to do
def test_reference_cpm_receives_a_key_and_a_new_one_after_it_was_loaded_anew(device, tmp_path, eventually):
    tool = give_reference_tool(device, tmp_path / "reference")
    device.settings["health_file"] = str(tmp_path / "health.json")
    device.start_agent()
    spki = eventually(lambda: reported_spki(device), seconds=60, what="the first report")

    device.release(7, {APP: 1})

    eventually(lambda: device.has_installed(7, {APP: 1}), seconds=60, what="the acknowledgement")
    assert tool.slot == device.cloud.class_key(APP, 1).reveal()
    assert device.logged("releases_judged_by_the_agent")
    assert json.loads((tmp_path / "health.json").read_text())["cpm"]["judges_releases"] is False

    tool.unload()
    eventually(lambda: reported_spki(device) != spki, seconds=90, what="the new key")
    eventually(lambda: not device.status().keys, seconds=60, what="the loss of the class key")
    device.release(8, {APP: 1})
    eventually(lambda: device.has_installed(8, {APP: 1}), seconds=60, what="the second acknowledgement")
    assert tool.slot == device.cloud.class_key(APP, 1).reveal()


def test_reference_cpm_never_sees_a_release_that_another_key_signed(device, tmp_path, eventually):
    tool = give_reference_tool(device, tmp_path / "reference")
    device.start_agent()
    eventually(lambda: reported_spki(device), seconds=60, what="the first report")
    device.cloud.release_key = DeviceProcesses.other_release_key()

    device.release(7, {APP: 1})

    eventually(lambda: device.logged("release_refused"), seconds=60, what="the refusal")
    assert [line["code"] for line in device.logged("release_refused")] == ["signature_invalid"]
    assert tool.slot is None


def test_health_file_and_metrics_follow_the_cpm(device, tmp_path, eventually):
    health = tmp_path / "health.json"
    device.settings |= {"health_file": str(health), "metrics_port": 0}
    device.start_cpm()
    device.start_agent()

    def state():
        return json.loads(health.read_text())["state"] if health.exists() else None

    eventually(lambda: state() == "in_step", what="the agent in step")
    [line] = device.logged("metrics")
    with urllib.request.urlopen(f"http://127.0.0.1:{line['port']}/metrics", timeout=30) as answer:
        assert 'device_agent_state{state="in_step"} 1.0' in answer.read().decode()
    device.kill("cpm")
    eventually(lambda: state() == "cpm_away", seconds=60, what="the loss of the CPM")
    device.start_cpm()
    eventually(lambda: state() == "in_step", seconds=60, what="the agent in step again")

    device.agent.terminate()

    assert device.agent.wait(timeout=30) == 0
    assert not health.exists()


# The diagnosis


def findings(device, *arguments):
    done = device.ask_agent("check", "--json", *arguments)
    document = json.loads(done.stdout)
    assert document["ok"] == (done.returncode == 0)
    assert DEVICE_KEY not in done.stdout + done.stderr
    assert "SharedAccess" not in done.stdout + done.stderr
    return {finding["name"]: finding for finding in document["findings"]}


def give_certificate(device, ca, *, days=90, device_id=DEVICE_ID):
    """Issue a certificate for the CPM's own key."""
    spki = base64.b64decode(device.cpm_public_key())
    file = device.folder / "device.pem"
    file.write_bytes(certificate_pem(issue_device(ca, device_id, spki, days=days)))
    device.settings["certificate_file"] = str(file)
    (device.folder / "roots.pem").write_bytes(ca.certificate_pem)
    device.settings["device_roots_file"] = str(device.folder / "roots.pem")


def test_check_passes_on_a_device_that_is_enrolled(device, hub_process):
    device.start_cpm()
    give_certificate(device, hub_process.fleet)

    found = findings(device)

    outcomes = {name: finding["outcome"] for name, finding in found.items()}
    assert outcomes.pop("state") == "warning"  # the agent makes the folder at its first start
    assert set(outcomes.values()) == {"ok"}
    assert outcomes.keys() == {
        *("settings", "clock", "cpm", "certificate"),
        *("hub_name", "hub_port", "hub_certificate", "hub_sign_in"),
    }
    assert not (device.folder / "agent").exists()


def test_check_leaves_an_agent_that_runs_alone(device, hub_process, eventually):
    device.start_cpm()
    give_certificate(device, hub_process.fleet)
    device.start_agent()
    eventually(lambda: device.status() is not None, what="the first report")

    found = findings(device)

    assert found["hub_sign_in"]["outcome"] == "skipped"
    assert len(device.logged("connected")) == 1
    assert device.logged("disconnected") == []


def break_cpm(device):
    device.kill("cpm")


def break_key(device):
    file = device.folder / "connection"
    file.write_text(file.read_text().replace(DEVICE_KEY, base64.b64encode(bytes(32)).decode()))


def break_roots(device):
    other = create_authority("Other Root", days=2)
    (device.folder / "other.pem").write_bytes(other.certificate_pem)
    device.settings["ca_file"] = str(device.folder / "other.pem")


def break_name(device):
    file = device.folder / "connection"
    file.write_text(file.read_text().replace(device.hub.address, "no-such-host.invalid"))


def break_hub(device):
    device.hub.kill()


def break_certificate_key(device):
    device.kill("cpm")
    (device.folder / "cpm").rename(device.folder / "old-cpm")
    device.start_cpm()  # makes a key of its own


def break_certificate_name(device):
    give_certificate(device, device.hub.fleet, device_id="edge-02")


def break_certificate_root(device):
    give_certificate(device, create_authority("Another CA", days=90))
    (device.folder / "roots.pem").write_bytes(device.hub.fleet.certificate_pem)


def break_certificate_file(device):
    (device.folder / "device.pem").write_text("no certificate")


def break_device_id(device):
    file = device.folder / "connection"
    device.registry.create_device_with_sas("edge-09", DEVICE_KEY, DEVICE_KEY, "enabled")
    file.write_text(file.read_text().replace("edge-01", "edge-09"))


def break_settings(device):
    device.settings["no_such_setting"] = "1"


@pytest.mark.parametrize(
    ("fault", "failing", "words"),
    [
        (break_cpm, {"cpm"}, "no cpm at"),
        (break_key, {"hub_sign_in"}, "refuses this device"),
        (break_roots, {"hub_certificate"}, "not trusted"),
        (break_name, {"hub_name"}, "no address"),
        (break_hub, {"hub_port"}, "cannot be reached"),
        (break_certificate_key, {"certificate"}, "another key"),
        (break_certificate_name, {"certificate"}, "names edge-02"),
        (break_certificate_root, {"certificate"}, "no valid path"),
        (break_certificate_file, {"certificate"}, "expected PEM"),
        (break_device_id, {"cpm_device", "certificate"}, "edge-09"),
        (break_settings, {"settings"}, "no_such_setting"),
    ],
)
def test_check_names_what_is_wrong(device, hub_process, fault, failing, words):
    device.start_cpm()
    give_certificate(device, hub_process.fleet)
    fault(device)

    found = findings(device)

    wrong = {name: finding for name, finding in found.items() if finding["outcome"] == "failed"}
    assert wrong.keys() == failing
    assert any(words in finding["text"] for finding in wrong.values())


def test_check_in_plain_words_says_the_same(device, hub_process):
    device.start_cpm()
    give_certificate(device, hub_process.fleet, days=5)

    done = device.ask_agent("check")

    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert "ok       settings: this is edge-01" in lines
    assert any(line.startswith("warning  certificate: ") and "4 more days" in line for line in lines)
    assert any(line.strip() == "hint: renew it" for line in lines)


def test_package_is_handed_to_the_cpm(device, tmp_path):
    device.start_cpm()
    (tmp_path / "broken.cpk").write_bytes(b"no package")

    done = device.ask_agent("install", str(tmp_path / "broken.cpk"))

    assert done.returncode in {1, 3}
    assert done.stderr.startswith("device-agent: error: ")

"""edb against the local cloud."""

import base64
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from simulators.edb_process import EDB, edb
from simulators.fleet import Device

from shared.certificates import load_certificates


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    """A local cloud that runs; its cloud.json."""
    folder = tmp_path_factory.mktemp("cloud")
    command = [sys.executable, "-m", "local_cloud.main", "up", "--state", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    line = process.stdout.readline()
    assert line.startswith("ready"), line
    yield folder / "cloud.json"
    process.terminate()
    process.wait(timeout=60)
    process.stdout.close()


@pytest.fixture
def live(cloud):
    def run(*arguments, **more):
        return edb(*arguments, "--cloud", cloud, **more)

    return run


@pytest.mark.timeout(300)
def test_class_keys_live_in_the_local_cloud(live):
    provisioned = live("keys", "provision", "my_app")
    again = live("keys", "provision", "my_app", "--json")
    rotated = live("keys", "rotate", "my_app", "--wait")
    revoked = live("keys", "revoke", "my_app", "--version", "1", "--yes", "--wait", "--json")
    shown = json.loads(live("keys", "show", "my_app", "--json").stdout)

    assert provisioned.returncode == 0, provisioned.stderr
    assert provisioned.stdout == "my_app: version 1 was made, aes-gcm-256\n"
    assert again.returncode == 1
    assert json.loads(again.stdout)["code"] == "key_exists"
    assert rotated.returncode == 0, rotated.stderr
    assert rotated.stdout.splitlines()[-1] == "my_app version 2: no device was released this key"
    assert json.loads(revoked.stdout.splitlines()[0])["floor"] == 2
    assert (shown["version"], shown["floor"]) == (2, 2)


@pytest.mark.timeout(300)
def test_a_key_of_ones_own_comes_into_the_local_cloud_wrapped(live, tmp_path):
    key = bytes(range(16))
    own = tmp_path / "own.key"
    own.write_bytes(key)
    own.chmod(0o644)
    open_to_all = live("keys", "import", "imported", own)
    own.chmod(0o600)
    imported = live("keys", "import", "imported", own, "--json")
    own.write_bytes(key + b"\n")
    too_long = live("keys", "import", "another", own)

    assert open_to_all.returncode == 3
    assert f"hint: chmod 600 {own}" in open_to_all.stderr
    assert imported.returncode == 0, imported.stderr
    document = json.loads(imported.stdout)
    assert (document["key_name"], document["strength"]) == ("imported", "128")
    assert too_long.returncode == 1
    assert "expected 16, 24 or 32 raw bytes, found 17" in too_long.stderr
    told = imported.stdout + imported.stderr + too_long.stderr
    assert key.hex() not in told
    assert base64.b64encode(key).decode() not in told


@pytest.mark.timeout(300)
def test_health_and_devices_of_the_local_cloud(live, cloud):
    assert live("health", "--live").stdout == "local: up\n"
    listed = live("devices", "list")
    assert (listed.returncode, listed.stdout) == (0, "no device\n")
    missing = live("devices", "show", "edge-99", "--json")
    assert missing.returncode == 1
    assert json.loads(missing.stdout)["code"] == "device_not_found"
    keys = json.loads(cloud.read_text())["functions"]["keys"]
    assert all(key not in missing.stdout + missing.stderr for key in keys.values())


@pytest.mark.timeout(300)
def test_the_policy_of_the_local_cloud_explains_a_device_that_was_enrolled(cloud, tmp_path):
    state = cloud.parent
    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "device.der").write_bytes(spki)
    enrolled = subprocess.run(
        [
            *(sys.executable, "-m", "local_cloud.main", "enrol", "edge-07", "--tag", "class=gateway"),
            *("--public-key", tmp_path / "device.der", "--state", state),
        ],
        capture_output=True,
        check=True,
    )
    pem = json.loads(enrolled.stdout)["certificate"].encode()
    (leaf,) = load_certificates(pem, where="certificate")
    member = Device(device_id="edge-07", private_key=key, certificates_der=leaf.public_bytes(Encoding.DER))
    twin = {
        "deviceId": "edge-07",
        "status": "enabled",
        "tags": {"class": "gateway"},
        "properties": {"reported": member.report()},
    }

    explained = edb(
        *("policy", "explain", json.loads(cloud.read_text())["policy_file"], "--device", "-", "--key", "app"),
        *("--trust", state / "fleet-ca.pem"),
        stdin=json.dumps(twin),
    )

    assert explained.returncode == 0, explained.stdout + explained.stderr
    assert "allowed by rule" in explained.stdout


@pytest.fixture
def fielded(cloud, tmp_path, eventually):
    """A device that runs: a CPM and an agent, enrolled in the local cloud."""
    state, folder = cloud.parent, Path(tempfile.mkdtemp(dir="/tmp"))  # a socket's path has to be short
    description = json.loads(cloud.read_text())
    socket = folder / "cpm.sock"
    (tmp_path / "release.pem").write_text(description["release_keys"][-1])
    log = (tmp_path / "device.log").open("wb")
    command = [EDB.with_name("cpm"), "serve", "--state", tmp_path / "cpm", "--socket", socket]
    command += ["--trust", state / "fleet-ca.pem", "--audience", description["audience"]]
    command += ["--device-id", "edge-11", "--release-key", tmp_path / "release.pem"]
    processes = [subprocess.Popen(command, stdout=log, stderr=log)]
    eventually(socket.exists, seconds=60, what="the CPM's socket")
    key = subprocess.run(
        [EDB.with_name("cpk-tool"), "pub-key", "--format", "pem", "--socket", socket],
        capture_output=True,
        check=True,
    )
    (tmp_path / "device.pem").write_bytes(key.stdout)
    enrol = [sys.executable, "-m", "local_cloud.main", "enrol", "edge-11", "--tag", "class=gateway"]
    enrol += ["--public-key", tmp_path / "device.pem", "--out", tmp_path / "enrolled", "--state", state]
    subprocess.run(enrol, capture_output=True, check=True)
    settings = {
        "connection_string_file": tmp_path / "enrolled" / "connection-string",
        "ca_file": description["hub"]["ca_file"],
        "certificate_file": tmp_path / "enrolled" / "certificate.pem",
        "cpm_socket": socket,
        "state_dir": tmp_path / "agent",
    }
    config = tmp_path / "agent.toml"
    config.write_text("".join(f"{name} = {json.dumps(str(value))}\n" for name, value in settings.items()))
    agent = [EDB.with_name("device-agent"), "run", "--config", config]
    processes.append(subprocess.Popen(agent, stdout=log, stderr=log))
    yield "edge-11"
    for process in reversed(processes):
        process.terminate()
        process.wait(timeout=60)
    log.close()
    shutil.rmtree(folder)


@pytest.mark.timeout(400)
def test_a_real_device_acknowledges_a_rotation_and_a_revocation(live, fielded, eventually):
    assert live("keys", "provision", "fielded_app").returncode == 0

    def installed():
        shown = live("devices", "show", fielded, "--json")
        if shown.returncode != 0:
            return False
        reported = json.loads(shown.stdout)["reported"] or {"keys": {}}
        return reported["keys"].get("fielded_app", {}).get("state") == "installed"

    eventually(installed, seconds=120, what="the first version on the device")
    rotated = live("keys", "rotate", "fielded_app", "--wait", "--timeout", "120", "--json", seconds=200)
    revoked = live(
        *("keys", "revoke", "fielded_app", "--version", "2", "--yes", "--wait", "--timeout", "120", "--json"),
        seconds=200,
    )
    shown = live("keys", "show", "fielded_app", "--devices")

    assert rotated.returncode == 0, rotated.stdout + rotated.stderr
    events = [json.loads(line) for line in rotated.stdout.splitlines()]
    assert events[-1] == {"event": "done", "key_name": "fielded_app", "acknowledged": 1, "devices": 1}
    assert events[-2] == {
        "event": "device",
        "device_id": fielded,
        "stage": "acknowledged",
        "version": 2,
        "detail": None,
    }
    assert revoked.returncode == 0, revoked.stdout + revoked.stderr
    assert json.loads(revoked.stdout.splitlines()[-1])["acknowledged"] == 1
    assert "revoked" in shown.stdout

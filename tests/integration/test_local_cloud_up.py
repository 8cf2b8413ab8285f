"""The ``local-cloud`` command: three servers, the project's own function app, enrolment, restarts, faults."""

import json
import os
import shutil
import signal
import socket
import ssl
import stat
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from azure.iot.hub import IoTHubRegistryManager
from azure.keyvault.keys import KeyClient
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from simulators.live_cloud import LocalIdentity

COMMAND = Path(sys.executable).with_name("local-cloud")
LIMIT = 120
"""Seconds for anything that is waited for; only a fault takes so long."""

pytestmark = pytest.mark.timeout(5 * LIMIT)


class LocalCloud:
    """A ``local-cloud up`` process."""

    def __init__(self, state):
        self.state = state

    def start(self, *options):
        self.process = subprocess.Popen(
            [COMMAND, "up", "--state", self.state, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        line = self.process.stdout.readline()
        assert line.startswith("ready"), self.process.communicate(timeout=LIMIT)
        self.description = json.loads((self.state / "cloud.json").read_text())
        trust = ssl.create_default_context(cafile=self.description["hub"]["ca_file"])
        self.http = httpx.Client(base_url=self.description["functions"]["url"], verify=trust, timeout=LIMIT)

    def stop(self, number=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(number)
        self.process.communicate(timeout=LIMIT)
        return self.process.returncode

    def pids(self):
        return {file.stem: int(file.read_text()) for file in (self.state / "run").glob("*.pid")}

    def run(self, *arguments):
        return run(*arguments, "--state", self.state)

    def enrol(self, *arguments):
        done = self.run("enrol", *arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    def registry(self):
        hub = self.description["hub"]
        registry = IoTHubRegistryManager.from_connection_string(hub["service_connection_string"])
        registry.protocol.config.connection.verify = hub["ca_file"]
        return registry

    def post(self, path, key=None, **options):
        headers = {"x-functions-key": self.description["functions"]["keys"][key]} if key else {}
        return self.http.post(path, headers=headers, **options)


def run(*arguments):
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, timeout=LIMIT, check=False)


@contextmanager
def running(state, *options):
    cloud = LocalCloud(state)
    cloud.start(*options)
    try:
        yield cloud
    finally:
        cloud.stop()


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    with running(tmp_path_factory.mktemp("cloud") / "state") as cloud:
        yield cloud


@pytest.fixture(scope="module")
def device_key(tmp_path_factory):
    """A device's RSA public key: the PEM file, and the key."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
    path = tmp_path_factory.mktemp("device") / "device.pem"
    path.write_bytes(
        key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    return path, key


@pytest.fixture
def own_address():
    """An address that no other cloud of this machine takes between a stop and the next start."""
    return f"127.77.{os.getpid() // 250 % 250 + 1}.{os.getpid() % 250 + 1}"


def until(condition, seconds=LIMIT):
    """Poll a condition until it holds, and return what it gave."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, "the condition did not come to hold"
        threading.Event().wait(0.05)
    return value


def alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


def test_cloud_json_says_where_everything_is_and_is_for_its_owner_alone(cloud):
    document = cloud.description
    host = document["hub"]["host"]
    assert document["audience"] == "local"
    assert host.startswith("127.0.0.")
    assert document["hub"]["service_connection_string"].startswith(f"HostName={host}:")
    assert ";SharedAccessKeyName=service;SharedAccessKey=" in document["hub"]["service_connection_string"]
    assert set(document["functions"]["keys"]) == {"provision", "wrap", "admin"}
    assert document["functions"]["url"].startswith(f"https://{host}:")
    assert document["vault"]["url"].startswith(f"https://{host}:")
    (release_key,) = [serialization.load_pem_public_key(pem.encode()) for pem in document["release_keys"]]
    assert isinstance(release_key.curve, ec.SECP256R1)
    for file in (document["hub"]["ca_file"], document["fleet_ca_file"]):
        assert x509.load_pem_x509_certificate(Path(file).read_bytes())
    assert stat.S_IMODE((cloud.state / "cloud.json").stat().st_mode) == 0o600


def test_private_files_of_the_state_folder_are_for_their_owner_alone(cloud):
    assert stat.S_IMODE(cloud.state.stat().st_mode) == 0o700
    names = ["ca.key", "fleet-ca.key", "server.key", "identity.key", "service.key", "function-keys.json"]
    for name in [*names, "vault/vault.db", "functions/host.db", "hub/hub.db", "logs/key-vault.log"]:
        assert stat.S_IMODE((cloud.state / name).stat().st_mode) == 0o600, name


def test_the_function_app_provisions_with_its_own_identity_and_only_for_the_right_key(cloud):
    body = {"key_name": "app_of_this_test"}
    assert cloud.http.get("/api/health").json()["status"] == "ok"
    assert cloud.post("/api/ProvisionKey", json=body).status_code == 401
    assert cloud.post("/api/ProvisionKey", "wrap", json=body).status_code == 401
    made = cloud.post("/api/ProvisionKey", "provision", json=body)
    assert (made.status_code, made.json()["version"]) == (201, 1)
    assert cloud.post("/api/ProvisionKey", "provision", json=body).status_code == 409


def test_a_class_key_lives_its_whole_life_as_the_operator_guide_walks_through_it(cloud, monkeypatch):
    name = {"key_name": "walked"}

    def call(contract, body=name, status=200):
        answer = cloud.post(f"/api/{contract}", "provision", json=body)
        assert (contract, answer.status_code) == (contract, status), answer.text
        return answer.json()

    call("ProvisionKey", status=201)
    assert call("RotateKey")["version"] == 2
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", cloud.description["hub"]["ca_file"])
    operator = LocalIdentity((cloud.state / "identity.key").read_bytes(), "operator")
    vault = KeyClient(cloud.description["vault"]["url"], operator, verify_challenge_resource=False)
    kid = vault.rotate_key("class-key-kek").id
    assert call("RewrapEnvelopes") == {"rewrapped": 2, "remaining": 0, "kek_version": kid}
    assert call("RewrapEnvelopes")["rewrapped"] == 0
    assert call("DeleteKey", status=409)["code"] == "key_in_use"
    assert call("RevokeKey", {**name, "version": 2})["floor"] == 3
    assert call("DeleteKey")["recoverable_until"] > f"{datetime.now(UTC):%Y-%m-%d}"
    assert call("ProvisionKey", status=409)["code"] == "key_deleted"
    assert call("RotateKey", status=404)["code"] == "key_not_found"
    call("RecoverKey")
    assert call("RotateKey")["version"] == 3


def test_every_function_that_asks_for_a_key_is_opened_by_one(cloud):
    admin = {"x-functions-key": cloud.description["functions"]["keys"]["admin"]}
    listed = cloud.http.get("/admin/functions", headers=admin).json()
    guarded = {
        function["name"]
        for function in listed
        if (trigger := function["config"]["bindings"][0])["type"] == "httpTrigger"
        and trigger.get("authLevel", "FUNCTION") == "FUNCTION"
    }
    keys = json.loads((cloud.state / "function-keys.json").read_text())
    opened = {name for key in ("provision", "wrap") for name in keys[key]["functions"]}
    assert guarded
    assert guarded <= opened


def test_enrolling_makes_a_device_with_its_tags(cloud):
    answer = cloud.enrol("edge-01", "--tag", "class=gateway", "--tag", "site=north")
    host = cloud.description["hub"]["host"]
    assert set(answer) == {"device_id", "connection_string"}
    assert answer["connection_string"].startswith(f"HostName={host};DeviceId=edge-01;SharedAccessKey=")
    assert cloud.registry().get_twin("edge-01").tags == {"class": "gateway", "site": "north"}


def test_enrolling_again_keeps_the_device_and_changes_only_the_named_tags(cloud):
    first = cloud.enrol("edge-02", "--tag", "class=gateway", "--tag", "site=north")
    second = cloud.enrol("edge-02", "--tag", "site=south")
    assert first == second
    assert cloud.registry().get_twin("edge-02").tags == {"class": "gateway", "site": "south"}


@pytest.mark.parametrize("encoding", [serialization.Encoding.PEM, serialization.Encoding.DER])
def test_a_public_key_is_certified_by_the_fleet_ca(cloud, tmp_path, device_key, encoding):
    _, key = device_key
    path = tmp_path / "key"
    path.write_bytes(key.public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo))
    answer = cloud.enrol("edge-03", "--public-key", str(path))
    certificate = x509.load_pem_x509_certificate(answer["certificate"].encode())
    fleet_ca = x509.load_pem_x509_certificate(Path(cloud.description["fleet_ca_file"]).read_bytes())
    certificate.verify_directly_issued_by(fleet_ca)
    assert certificate.public_key() == key
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["urn:cpk:device:edge-03"]


def test_a_device_registered_for_certificates_is_enrolled_without_a_key(cloud, device_key):
    cloud.registry().create_device_with_certificate_authority("edge-07", "enabled")
    answer = cloud.enrol("edge-07", "--public-key", str(device_key[0]))
    host = cloud.description["hub"]["host"]
    assert answer["connection_string"] == f"HostName={host};DeviceId=edge-07;x509=true"
    assert "certificate" in answer


def test_a_build_machine_is_certified(cloud, device_key):
    path, key = device_key
    done = cloud.run("certify-build", "builder", "--public-key", str(path))
    answer = json.loads(done.stdout)
    certificate = x509.load_pem_x509_certificate(answer["certificate"].encode())
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert (answer["name"], certificate.public_key()) == ("builder", key)
    assert names.get_values_for_type(x509.UniformResourceIdentifier) == ["urn:cpk:build:builder"]


def test_a_build_machines_folder_holds_all_that_a_build_needs_and_is_made_once(cloud, tmp_path):
    folder = tmp_path / "machine"
    done = cloud.run("certify-build", "builder-2", "--out", folder)
    assert done.returncode == 0, done.stderr
    key = serialization.load_pem_private_key((folder / "build.key").read_bytes(), None)
    certificate = x509.load_pem_x509_certificate((folder / "build.pem").read_bytes())
    signing = serialization.load_pem_private_key((folder / "signing.key").read_bytes(), None)
    signer = x509.load_pem_x509_certificate((folder / "signing.pem").read_bytes())
    vendor = x509.load_pem_x509_certificate((folder / "vendor-ca.pem").read_bytes())
    assert certificate.public_key() == key.public_key()
    assert signer.public_key() == signing.public_key()
    signer.verify_directly_issued_by(vendor)
    assert (folder / "wrap.function-key").read_text() == cloud.description["functions"]["keys"]["wrap"]
    for private in ("build.key", "signing.key", "vendor-ca.key", "wrap.function-key"):
        assert (folder / private).stat().st_mode & 0o077 == 0

    again = cloud.run("certify-build", "builder-2", "--out", folder)
    assert again.returncode == 1
    assert "without build.key, found one" in again.stderr


def test_an_enrolment_can_be_written_as_the_agent_reads_it(cloud, tmp_path, device_key):
    path, key = device_key
    answer = cloud.enrol("edge-06", "--public-key", str(path), "--out", str(tmp_path / "device"))
    connection = tmp_path / "device" / "connection-string"
    assert connection.read_text() == answer["connection_string"]
    assert connection.stat().st_mode & 0o077 == 0
    written = x509.load_pem_x509_certificate((tmp_path / "device" / "certificate.pem").read_bytes())
    assert written.public_key() == key


def test_a_class_key_is_provisioned_once(cloud):
    first, second = (cloud.run("provision", "by_command") for _ in range(2))
    assert json.loads(first.stdout)["version"] == 1
    assert (second.returncode, second.stdout) == (1, "")
    assert "class key by_command exists" in second.stderr


def test_the_address_of_a_contract_is_printed(cloud):
    assert cloud.run("url", "WrapKey").stdout == f"{cloud.description['functions']['url']}/api/WrapKey\n"


def test_the_release_key_to_pin_is_the_newest_one(cloud):
    assert (cloud.state / "release-key.pem").read_text() == cloud.description["release_keys"][-1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["rogue", "--tag", "class"], "tag: expected KEY=VALUE"),
        (["rogue", "--tag", "a=1", "--tag", "a=2"], "tag: a is given twice"),
        (["rogue", "--tag", "$a=1"], "tag: expected KEY=VALUE"),
        (["rogue", "--public-key", "{here}/nothing"], "cannot read"),
        (["rogue", "--public-key", "{here}/text"], "public key"),
        (["rogue", "--public-key", "{here}/pem"], "expected a PEM or DER public key"),
        (["rogue", "--out", "{here}/text/inside"], "cannot make"),
        (["ro gue"], "device id: expected"),
        (["rogue/module"], "expected a device without a module"),
    ],
)
def test_bad_input_is_one_clear_error_and_enrols_nobody(cloud, tmp_path, arguments, message):
    (tmp_path / "text").write_text("no key")
    (tmp_path / "pem").write_text("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
    done = cloud.run("enrol", *(argument.format(here=tmp_path) for argument in arguments))
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("local-cloud: error: ")
    assert message in done.stderr
    assert "rogue" not in [device.device_id for device in cloud.registry().get_devices()]


def test_a_second_cloud_on_the_same_state_is_refused(cloud):
    done = cloud.run("up")
    assert (done.returncode, done.stdout) == (1, "")
    assert "a local cloud already runs in" in done.stderr
    assert (cloud.state / "cloud.json").exists()


def test_a_second_cloud_beside_it_has_an_address_of_its_own(cloud, tmp_path):
    with running(tmp_path / "state") as other:
        assert other.description["address"] != cloud.description["address"]
        assert other.post("/api/ProvisionKey", "provision", json={"key_name": "a"}).status_code == 201


def test_servers_that_are_killed_come_back_on_their_ports_with_what_they_knew(tmp_path):
    with running(tmp_path / "state") as cloud:
        enrolled = cloud.enrol("edge-01")
        cloud.post("/api/ProvisionKey", "provision", json={"key_name": "kept"})
        before = cloud.pids()
        assert set(before) == {"twin-hub", "key-vault", "functions-host"}
        for pid in before.values():
            os.kill(pid, signal.SIGKILL)
        until(
            lambda: (
                set(after := cloud.pids()) == set(before) and not set(after.values()) & set(before.values())
            )
        )
        until(lambda: cloud.run("enrol", "edge-01").returncode == 0)
        assert cloud.enrol("edge-01") == enrolled
        until(lambda: _status(cloud, "kept") == 409)


def _status(cloud, name):
    try:
        return cloud.post("/api/ProvisionKey", "provision", json={"key_name": name}).status_code
    except httpx.TransportError:
        return None


def test_a_restart_keeps_addresses_keys_and_devices(tmp_path, own_address):
    state = tmp_path / "state"
    with running(state, "--address", own_address) as cloud:
        assert cloud.description["address"] == own_address
        first = cloud.description
        enrolled = cloud.enrol("edge-01")
        cloud.post("/api/ProvisionKey", "provision", json={"key_name": "kept"})
        policy = state / "policy.json"
        policy.write_text(policy.read_text().replace('"serial": 1', '"serial": 2'))
        assert cloud.stop() == 0
        assert not (state / "cloud.json").exists()
    with running(state) as cloud:
        assert cloud.description == first
        assert cloud.enrol("edge-01") == enrolled
        assert cloud.post("/api/ProvisionKey", "provision", json={"key_name": "kept"}).status_code == 409
        assert '"serial": 2' in (state / "policy.json").read_text()
        assert cloud.stop(signal.SIGINT) == 0
    moved = run("up", "--state", state, "--address", "127.0.0.59")
    assert moved.returncode == 1
    assert f"belongs to a cloud on {own_address}" in moved.stderr


def test_no_server_outlives_the_command_and_the_next_start_takes_over(tmp_path, own_address):
    with running(tmp_path / "state", "--address", own_address) as cloud:
        first, pids = cloud.description, cloud.pids()
        cloud.process.kill()
        cloud.process.communicate(timeout=LIMIT)
        until(lambda: not any(alive(pid) for pid in pids.values()))
        cloud.start()
        assert cloud.description == first


def test_a_program_on_the_clouds_own_port_is_named_at_the_next_start(tmp_path, own_address):
    state = tmp_path / "state"
    with running(state, "--address", own_address) as cloud:
        port = int(cloud.description["vault"]["url"].rpartition(":")[2])
    with socket.create_server((own_address, port)):
        done = run("up", "--state", state)
    assert done.returncode == 1
    assert f"port {port} on {own_address} is taken by another program" in done.stderr


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """The state folder of a cloud that ran and ended."""
    state = tmp_path_factory.mktemp("ended") / "state"
    with running(state):
        pass
    return state


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("endpoints.json", "garbage", "endpoints.json: not JSON"),
        ("endpoints.json", '{"address": "192.0.2.1", "ports": {}}', "expected an IPv4 loopback address"),
        ("fleet-ca.pem", "garbage", "fleet-ca.pem: expected one PEM certificate"),
        ("fleet-ca.key", "garbage", "fleet-ca.key: expected an unencrypted PEM private key"),
        ("identity.key", "garbage", "identity.key: expected an unencrypted PEM private key"),
        ("identity.pem", "garbage", "identity.pem: expected a PEM public key"),
        ("server.pem", "garbage", "server.pem: expected a PEM certificate"),
        ("service.key", "", "--service-key-file: expected base64"),
        ("function-keys.json", "[]", "function-keys.json: expected an object of keys"),
        ("policy.json", "{}", "EDB_POLICY_FILE: at the root: the field version is missing"),
        ("hub/hub.db", "garbage", "hub.db: file is not a database"),
        ("vault/vault.db", "garbage", "vault.db: file is not a database"),
        ("functions/host.db", "garbage", "host.db: file is not a database"),
    ],
)
def test_a_damaged_state_folder_is_told_and_left_as_it_is(ended, tmp_path, name, content, message):
    state = tmp_path / "state"
    shutil.copytree(ended, state)
    (state / name).write_text(content)
    for journal in state.glob(f"{name}-*"):
        journal.unlink()
    done = run("up", "--state", state)
    assert (done.returncode, done.stdout) == (1, "")
    errors = [line for line in done.stderr.splitlines() if not line.startswith(("{", "hint: "))]
    assert len(errors) == 1, done.stderr
    assert errors[0].startswith("local-cloud: error: ")
    assert message in errors[0]
    assert (state / name).read_text() == content
    assert not list((state / "run").glob("*.pid"))


def test_a_reader_that_has_gone_is_no_fault_worth_a_traceback(cloud):
    command = [COMMAND, "url", "WrapKey", "--state", cloud.state]
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        command, stdout=writing, stderr=subprocess.PIPE, text=True, timeout=LIMIT, check=False
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


def test_without_a_running_cloud_nobody_is_enrolled(tmp_path):
    done = run("enrol", "edge-01", "--state", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert f"no local cloud runs in {tmp_path}" in done.stderr
    assert "hint: start it with: local-cloud up" in done.stderr


def test_a_fault_of_a_server_ends_the_start_with_its_reason(tmp_path):
    app = tmp_path / "app"
    app.mkdir()
    (app / "host.json").write_text('{"version": "2.0"}')
    (app / "function_app.py").write_text("raise RuntimeError('no such luck')")
    done = run("up", "--state", tmp_path / "state", "--app", app)
    assert (done.returncode, done.stdout) == (1, "")
    assert "functions-host did not start" in done.stderr
    assert "RuntimeError: no such luck" in done.stderr
    assert not list((tmp_path / "state" / "run").glob("*.pid"))


@pytest.mark.parametrize("command", [[], ["up"], ["enrol"], ["certify-build"], ["url"], ["provision"]])
def test_help_is_quick_to_load_and_says_what_there_is(command):
    code = (
        "import sys; from local_cloud.main import main\n"
        f"try: main({[*command, '--help']!r})\n"
        "except SystemExit: pass\n"
        "sys.exit(any(name.startswith(('azure', 'uamqp', 'aiohttp')) for name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, "a slow library was loaded"
    assert "usage: local-cloud" in done.stdout


@pytest.mark.parametrize("arguments", [[], ["fly"], ["enrol"], ["certify-build", "x"]])
def test_wrong_usage_exits_with_2(arguments):
    assert run(*arguments).returncode == 2

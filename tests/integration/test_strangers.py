"""Programs that know nothing of this project use the hub by ``cloud.json`` alone, also across its death."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

LOCAL_CLOUD = Path(sys.executable).with_name("local-cloud")
PROGRAMS = Path(__file__).parent / "apps" / "strangers"
PATIENCE_SECONDS = 180

pytestmark = pytest.mark.timeout(3 * PATIENCE_SECONDS)


@pytest.fixture
def state(tmp_path):
    """The state folder of a running local cloud."""
    folder = tmp_path / "state"
    command = [LOCAL_CLOUD, "up", "--state", folder]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as cloud:
        try:
            assert cloud.stdout.readline() == f"ready {folder / 'cloud.json'}\n"
            yield folder
        finally:
            cloud.terminate()


def command_of(program, *arguments):
    """A program's command line; nothing of the project is in reach of its imports but by its full name."""
    source = (PROGRAMS / program).read_text()
    imported = re.findall(r"^(?:from|import) (\w+)", source, re.MULTILINE)
    assert set(imported) <= {*sys.stdlib_module_names, "azure"}
    return [sys.executable, "-I", PROGRAMS / program, *arguments]


@contextmanager
def device(ca_file, *identity):
    with subprocess.Popen(command_of("device.py", ca_file, *identity)) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


class HubLog:
    """What the hub has logged, over all its lives."""

    def __init__(self, state):
        self.path = state / "logs" / "twin-hub.log"

    def count(self, **fields):
        lines = self.path.read_text().splitlines(keepends=True)
        entries = [json.loads(line) for line in lines if line.endswith("\n")]
        return sum(fields.items() <= entry.items() for entry in entries)

    def await_one_more(self, *, seen, **fields):
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self.count(**fields) <= seen:
            assert time.monotonic() < deadline, f"nothing was logged of {fields}"
            time.sleep(0.05)


def test_a_device_and_a_back_end_get_along_over_renewed_tokens_and_a_killed_hub(state, tmp_path):
    def back_end(*arguments):
        command = command_of("back_end.py", state / "cloud.json", *arguments)
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_SECONDS, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    hub = json.loads((state / "cloud.json").read_text())["hub"]
    log = HubLog(state)
    registered = back_end("register")
    key_file, certificate_file = certified(state, tmp_path, registered["certified"])
    with ExitStack() as stack:
        devices = [
            stack.enter_context(device(hub["ca_file"], registered["keyed"])),
            stack.enter_context(
                device(hub["ca_file"], hub["host"], registered["certified"], certificate_file, key_file)
            ),
        ]
        both = ["with-certificate", "with-keys"]
        assert back_end("ask", "1") == both
        assert back_end("add") == [7, 7]

        connections = [{"event": "device_connected", "device_id": device_id} for device_id in both]
        before = [log.count(**connection) for connection in connections]
        os.kill(int((state / "run" / "twin-hub.pid").read_text()), signal.SIGKILL)
        for connection, seen in zip(connections, before, strict=True):
            log.await_one_more(**connection, seen=seen)
        assert back_end("ask", "2") == both

        connection = connections[both.index("with-keys")]
        log.await_one_more(**connection, seen=log.count(**connection))  # the SDK renews its token so
        assert back_end("ask", "3") == both
        assert back_end("add") == [7, 7]
        assert back_end("stop") == [None, None]
        assert [process.wait(PATIENCE_SECONDS) for process in devices] == [0, 0]

    assert back_end("count") == [{"n": 2}]
    assert back_end("remove") == []


def certified(state, folder, device_id):
    """Make a device's key and have it certified; return the files of both."""
    key = ec.generate_private_key(ec.SECP256R1())
    key_file, public_file, certificate_file = (folder / name for name in ("key", "public", "certificate"))
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    public_file.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    command = [LOCAL_CLOUD, "enrol", device_id, "--public-key", public_file, "--state", state]
    answer = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
    assert answer["connection_string"].endswith(f";DeviceId={device_id};x509=true")
    certificate_file.write_text(answer["certificate"])
    return key_file, certificate_file

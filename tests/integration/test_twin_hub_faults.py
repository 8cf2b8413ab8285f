"""The hub under kills, hostile peers and competing clients."""

import base64
import contextlib
import json
import random
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading

import pytest
from azure.iot.device import IoTHubDeviceClient
from azure.iot.device.common.auth import sastoken, signing_mechanism
from azure.iot.device.exceptions import ClientError
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import Twin, TwinProperties

KEY = base64.b64encode(b"k" * 32).decode()


def tls(hub_process):
    context = ssl.create_default_context(cafile=str(hub_process.ca_file))
    plain = socket.create_connection((hub_process.address, 8883), timeout=120)
    return context.wrap_socket(plain, server_hostname=hub_process.address)


def text(data):
    return struct.pack("!H", len(data)) + data


def packet(first, body):
    assert len(body) < 128 * 128
    length = bytes((len(body) & 0x7F | 0x80, len(body) >> 7)) if len(body) > 127 else bytes((len(body),))
    return bytes((first,)) + length + body


def connect_packet(hub_process, device_id, *, key=KEY):
    """Return CONNECT as the SDK writes it, with a clean session."""
    host = hub_process.address
    signer = signing_mechanism.SymmetricKeySigningMechanism(key)
    token = str(sastoken.RenewableSasToken(f"{host}/devices/{device_id}", signer))
    user = f"{host}/{device_id}/?api-version=2019-10-01"
    head = text(b"MQTT") + b"\x04\xc2" + struct.pack("!H", 60)
    return packet(0x10, head + text(device_id.encode()) + text(user.encode()) + text(token.encode()))


@pytest.fixture
def registry(hub_process):
    return IoTHubRegistryManager.from_connection_string(hub_process.service_connection_string)


@pytest.fixture
def connect(hub_process, registry):
    """Register and connect a device; every client is shut down at the end."""
    clients = []

    def connected(device_id):
        with contextlib.suppress(Exception):
            registry.create_device_with_sas(device_id, KEY, KEY, "enabled")
        client = IoTHubDeviceClient.create_from_connection_string(
            f"HostName={hub_process.address};DeviceId={device_id};SharedAccessKey={KEY}",
            server_verification_cert=hub_process.ca_file.read_text(),
            connection_retry_interval=1,
        )
        clients.append(client)
        client.connect()
        return client

    yield connected
    for client in clients:
        with contextlib.suppress(ClientError):
            client.shutdown()


def test_session_survives_a_kill(hub_process, registry, connect, eventually):
    patches = []
    client = connect("edge-01")
    client.on_twin_desired_properties_patch_received = patches.append
    client.patch_twin_reported_properties({"before": 1})

    hub_process.restart()
    eventually(lambda: registry.get_twin("edge-01").connection_state == "Connected", what="the reconnection")
    client.patch_twin_reported_properties({"after": 2})
    registry.update_twin("edge-01", Twin(properties=TwinProperties(desired={"pushed": True})))

    eventually(lambda: any("pushed" in patch for patch in patches), what="the desired patch")
    twin = registry.get_twin("edge-01")
    assert {"before": 1, "after": 2}.items() <= twin.properties.reported.items()


def test_patch_in_flight_at_a_kill_is_answered_after_the_restart(hub_process, registry, connect, eventually):
    client = connect("edge-01")
    client.get_twin()
    hub_process.pause()  # it will never read what comes now
    outcome = []
    thread = threading.Thread(
        target=lambda: outcome.append(client.patch_twin_reported_properties({"flying": 1}))
    )
    thread.start()

    hub_process.restart()
    thread.join(timeout=120)

    assert outcome == [None]
    assert registry.get_twin("edge-01").properties.reported["flying"] == 1


def test_everything_that_was_answered_is_there_after_a_kill(hub_process, registry, connect):
    client = connect("edge-01")
    etag = registry.update_twin("edge-01", Twin(tags={"class": "gateway"})).etag
    for number in range(20):
        client.patch_twin_reported_properties({"n": number})

    hub_process.restart()

    twin = registry.get_twin("edge-01")
    assert twin.tags == {"class": "gateway"}
    assert twin.etag == etag
    assert twin.properties.reported["n"] == 19


def test_second_hub_on_the_same_state_is_refused(hub_process):
    command = [
        *(sys.executable, "-m", "local_cloud.twin_hub", "--state", str(hub_process.folder / "hub")),
        *("--address", hub_process.address, "--mqtt-port", "0"),
        *("--server-cert", str(hub_process.folder / "server.pem")),
        *("--server-key", str(hub_process.folder / "server.key")),
        *("--service-key-file", str(hub_process.folder / "service.key")),
    ]

    second = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    assert second.returncode == 1
    assert "is another hub running on the same state?" in second.stderr
    assert second.stdout == ""


@pytest.mark.parametrize("number", [None, signal.SIGTERM], ids=["end of its lifeline", "SIGTERM"])
def test_hub_ends_in_order_when_told(hub_process, connect, number):
    connect("edge-01")

    assert hub_process.stop(number) == 0

    assert '"ended"' in hub_process.log()
    assert "Traceback" not in hub_process.log()


def test_newer_connection_replaces_the_older(hub_process, connect, eventually):
    connect("edge-01")

    with tls(hub_process) as newer:
        newer.sendall(connect_packet(hub_process, "edge-01"))
        assert newer.recv(4) == b"\x20\x02\x00\x00"

        eventually(lambda: "replaced by a newer connection" in hub_process.log(), what="the replacement")


GARBAGE = {
    "random": random.Random(7).randbytes(4096),
    "huge length": b"\x10\xff\xff\xff\x7f",
    "endless length": b"\x10\xff\xff\xff\xff\xff",
    "publish first": b"\x30\x04\x00\x02ab",
    "not utf-8": packet(0x10, text(b"\xff\xfe") + b"\x04\x02\x00\x00"),
    "null character": packet(0x10, text(b"MQTT") + b"\x04\x02\x00\x00" + text(b"a\0b")),
    "nothing": b"",
    "http": b"GET / HTTP/1.1\r\n" + b"Accept: */*\r\n" * 8 + b"\r\n",
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
def test_garbage_closes_its_own_connection_alone(hub_process, connect, data):
    client = connect("edge-01")

    with tls(hub_process) as hostile:
        hostile.sendall(data)
        if data:
            assert hostile.recv(64) == b""
    with socket.create_connection((hub_process.address, 8883)) as plain:
        plain.sendall(data or b"\0")

    client.patch_twin_reported_properties({"still": "here"})
    assert "Traceback" not in hub_process.log()


@pytest.mark.parametrize(
    ("first", "body", "answer"),
    [
        (0x32, "topic:devices/edge-02/messages/events/", b""),
        (0x32, "topic:$iothub/twin/PATCH/properties/desired/?$rid=1", b""),
        (0x34, "topic:$iothub/twin/GET/?$rid=1", b""),
        (0x82, "filter:#", b"\x90\x03\x00\x01\x80"),
        (0x82, "filter:devices/edge-02/messages/devicebound/#", b"\x90\x03\x00\x01\x80"),
        (0x80, "filter:$iothub/twin/res/#", b""),
        (0x10, "nothing", b""),
    ],
)
def test_admitted_client_gets_nothing_beyond_its_own_topics(hub_process, registry, first, body, answer):
    registry.create_device_with_sas("edge-01", KEY, KEY, "enabled")
    kind, _, name = body.partition(":")
    content = {
        "topic": text(name.encode()) + b"\x00\x01{}",
        "filter": b"\x00\x01" + text(name.encode()) + b"\x01",
        "nothing": b"",
    }[kind]

    with tls(hub_process) as client:
        client.sendall(connect_packet(hub_process, "edge-01"))
        assert client.recv(4) == b"\x20\x02\x00\x00"
        client.sendall(packet(first, content))
        assert client.recv(64) == answer

    assert registry.get_twin("edge-01").version == 2


def test_answer_to_a_twin_request_precedes_its_acknowledgement(hub_process, registry):
    registry.create_device_with_sas("edge-01", KEY, KEY, "enabled")
    topic = text(b"$iothub/twin/PATCH/properties/reported/?$rid=r1")

    with tls(hub_process) as client:
        client.sendall(connect_packet(hub_process, "edge-01"))
        client.sendall(packet(0x82, b"\x00\x01" + text(b"$iothub/twin/res/#") + b"\x00"))
        client.sendall(packet(0x32, topic + b"\x00\x02" + json.dumps({"a": 1}).encode()))
        received = b""
        while not received.endswith(b"\x40\x02\x00\x02"):
            received += client.recv(4096)

    assert received.index(b"$iothub/twin/res/204/?$rid=r1&$version=2") < received.rindex(b"\x40\x02")


def test_keys_and_tokens_stay_out_of_the_log(hub_process, registry, connect):
    connect("edge-01")
    with tls(hub_process) as client:
        client.sendall(connect_packet(hub_process, "edge-01", key=base64.b64encode(b"w" * 32).decode()))
        assert client.recv(4)[3] == 5

    log = hub_process.log()
    assert "connect_refused" in log
    for secret in (KEY, hub_process.service_key, "SharedAccessSignature", "sig="):
        assert secret not in log

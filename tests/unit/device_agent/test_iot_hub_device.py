"""The link's own part: deadlines, generations and translation of errors, around a client that behaves badly.

The real SDK against a real hub is an integration test.
"""

import threading

import pytest
from azure.iot.device import exceptions as sdk
from azure.iot.device.iothub.pipeline import exceptions as pipeline
from paho.mqtt import client as mqtt

from device_agent.adapters.iot_hub_device import IotHubDevice
from device_agent.twin_link import REFUSED, UNAUTHORIZED, DesiredPatch, LinkChanged
from shared.errors import FormatError, TransportError
from shared.types import DeviceId, Secret


class SdkClient:
    """As much of the SDK's client as the link uses."""

    def __init__(self) -> None:
        self.connected = False
        self.shut_down = threading.Event()
        self.never = threading.Event()
        self.connecting = None
        self.answer = {"desired": {"$version": 4, "a": 1}, "reported": {"$version": 2}}
        self.on_connection_state_change = None
        self.on_twin_desired_properties_patch_received = None
        self.patches = []

    def connect(self):
        if self.connecting is not None:
            raise self.connecting
        self.connected = True

    def get_twin(self):
        if self.answer is None:
            self.never.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def patch_twin_reported_properties(self, patch):
        self.patches.append(patch)

    def shutdown(self):
        self.connected = False
        self.shut_down.set()


@pytest.fixture
def clients():
    made = []
    yield made
    for client in made:
        client.never.set()


@pytest.fixture
def link(clients):
    def build():
        clients.append(SdkClient())
        return clients[-1]

    return IotHubDevice(device_id=DeviceId("edge-01"), build=build, connect_seconds=5, call_seconds=0.2)


def caused(error, cause):
    error.__cause__ = cause
    return error


def test_connected_link_reads_patches_and_passes_events_on(link, clients):
    events = []
    link.connect(events.append)

    assert link.connected
    assert link.get_twin().desired.version == 4
    assert link.get_twin().desired.properties == {"a": 1}
    link.patch_reported({"b": 2})
    assert clients[0].patches == [{"b": 2}]
    clients[0].on_twin_desired_properties_patch_received({"$version": 5})
    assert events == [DesiredPatch(document={"$version": 5})]


def test_any_change_of_the_connection_is_a_break_even_if_it_stands_again(link, clients):
    events = []
    link.connect(events.append)

    clients[0].on_connection_state_change()
    clients[0].on_twin_desired_properties_patch_received({"$version": 9})

    assert not link.connected
    assert events == [LinkChanged()]
    with pytest.raises(TransportError):
        link.get_twin()


def test_reconnecting_uses_a_new_client_and_ends_the_old_one(link, clients):
    events = []
    link.connect(events.append)
    link.connect(events.append)

    assert len(clients) == 2
    assert clients[0].shut_down.wait(5)
    clients[0].on_twin_desired_properties_patch_received({"$version": 5})
    assert events == []
    assert link.connected


def test_call_that_never_returns_ends_at_its_deadline(link, clients):
    link.connect(lambda _event: None)
    clients[0].answer = None

    with pytest.raises(TransportError, match="did not answer in"):
        link.get_twin()


def test_twin_that_is_none_is_refused(link, clients):
    link.connect(lambda _event: None)
    clients[0].answer = {"desired": []}

    with pytest.raises(FormatError):
        link.get_twin()


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        (sdk.CredentialError("secret"), TransportError, UNAUTHORIZED),
        (pipeline.UnauthorizedError("secret"), TransportError, UNAUTHORIZED),
        (caused(sdk.ClientError("secret"), pipeline.TlsExchangeAuthError()), TransportError, "hub_untrusted"),
        (sdk.ConnectionFailedError("secret"), TransportError, "unavailable"),
        (pipeline.OperationTimeout("secret"), TransportError, "unavailable"),
        (OSError("secret"), TransportError, "unavailable"),
        (
            caused(sdk.ClientError("Unexpected failure"), sdk.ServiceError("twin returned status 400")),
            FormatError,
            REFUSED,
        ),
        (
            caused(sdk.ClientError("Unexpected failure"), sdk.ServiceError("twin returned status 429")),
            TransportError,
            "unavailable",
        ),
        (
            caused(sdk.ClientError("Unexpected failure"), sdk.ServiceError("twin returned status 500")),
            TransportError,
            "unavailable",
        ),
    ],
)
def test_sdk_errors_become_ours_without_their_text(link, clients, error, kind, code):
    link.connect(lambda _event: None)
    clients[0].answer = error

    with pytest.raises(kind) as caught:
        link.get_twin()

    assert caught.value.code == code
    assert "secret" not in str(caught.value)


def test_failed_connection_leaves_no_client_behind(link, clients):
    def build():
        clients.append(SdkClient())
        clients[-1].connecting = sdk.CredentialError()
        return clients[-1]

    link = IotHubDevice(device_id=DeviceId("edge-01"), build=build)

    with pytest.raises(TransportError):
        link.connect(lambda _event: None)

    assert not link.connected
    assert clients[0].shut_down.wait(5)
    assert link.close(seconds=5)


def test_wrong_shared_access_key_fails_without_being_shown():
    text = "HostName=hub.invalid;DeviceId=edge-01;SharedAccessKey=not*base64"
    link = IotHubDevice.from_connection_string(
        Secret(text.encode()), device_id=DeviceId("edge-01"), ca_pem=None
    )

    with pytest.raises(TransportError) as caught:
        link.connect(lambda _event: None)

    assert "not*base64" not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "looks"), [("PATH_OF_NONE", False), ("mqtt_proxy", True), ("MQTT_PROXY", True)]
)
def test_proxy_is_looked_for_only_where_a_variable_names_one(monkeypatch, variable, looks):
    library = object()
    monkeypatch.setattr(mqtt, "socks", library)
    monkeypatch.setenv(variable, "http://127.0.0.1:3128")

    IotHubDevice(device_id=DeviceId("edge-01"), build=object)

    assert (mqtt.socks is library) is looks

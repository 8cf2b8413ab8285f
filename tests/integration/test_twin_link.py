"""What every :class:`~device_agent.twin_link.TwinLink` does: the simulated one, and the SDK's with a hub."""

import base64
import contextlib

import pytest
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import Twin, TwinProperties
from simulators.device_link import SimulatedLink

from device_agent.adapters.iot_hub_device import IotHubDevice
from device_agent.inbox import Inbox
from device_agent.twin_link import DesiredPatch, LinkChanged, parse_section
from shared.errors import TransportError
from shared.types import DeviceId, Secret

DEVICE_ID = DeviceId("edge-01")
KEY = base64.b64encode(b"k" * 32).decode()
WAIT_SECONDS = 120


class SimulatedHub:
    """The hub's side of the simulated link."""

    def __init__(self) -> None:
        self.link = SimulatedLink(DEVICE_ID)

    def desire(self, patch):
        self.link.desire(patch)

    def reported(self):
        return self.link.reported

    def go_away(self):
        self.link.go_away()

    def come_back(self):
        self.link.come_back()

    def close(self):
        self.link.disconnect()


class RealHub:
    """A twin hub as a process, and a link to it through the SDK."""

    def __init__(self, process) -> None:
        self._process = process
        self._registry = IoTHubRegistryManager.from_connection_string(process.service_connection_string)
        self._registry.create_device_with_sas(DEVICE_ID, KEY, KEY, "enabled")
        text = f"HostName={process.address};DeviceId={DEVICE_ID};SharedAccessKey={KEY}"
        self.link = IotHubDevice.from_connection_string(
            Secret(text.encode()), device_id=DEVICE_ID, ca_pem=process.ca_file.read_text()
        )

    def desire(self, patch):
        self._registry.update_twin(DEVICE_ID, Twin(properties=TwinProperties(desired=patch)))

    def reported(self):
        found = self._registry.get_twin(DEVICE_ID).properties.reported
        return {name: value for name, value in found.items() if not name.startswith("$")}

    def go_away(self):
        self._process.kill()

    def come_back(self):
        self._process.start()

    def close(self):
        assert self.link.close(seconds=WAIT_SECONDS)


@pytest.fixture(params=["simulated", "sdk"])
def hub(request):
    hub = SimulatedHub() if request.param == "simulated" else RealHub(request.getfixturevalue("hub_process"))
    with contextlib.closing(hub):
        yield hub


@pytest.fixture
def inbox():
    return Inbox()


def next_patch(inbox):
    event = inbox.get(WAIT_SECONDS)
    assert isinstance(event, DesiredPatch), event
    return parse_section(event.document, where="test")


def test_twin_holds_both_sections_without_the_hubs_own_entries(hub, inbox):
    hub.desire({"a": {"b": 1}})
    hub.link.connect(inbox.put)

    twin = hub.link.get_twin()

    assert twin.desired.properties == {"a": {"b": 1}}
    assert twin.desired.version == 2
    assert twin.reported.properties == {}


def test_desired_patches_come_in_order_with_versions_that_follow_the_twins(hub, inbox):
    hub.link.connect(inbox.put)
    version = hub.link.get_twin().desired.version

    hub.desire({"a": 1, "b": {"c": 2}})
    hub.desire({"a": None})

    first, second = next_patch(inbox), next_patch(inbox)
    assert (first.version, first.properties) == (version + 1, {"a": 1, "b": {"c": 2}})
    assert (second.version, second.properties) == (version + 2, {"a": None})
    assert hub.link.get_twin().desired.properties == {"b": {"c": 2}}


def test_reported_patches_are_merged(hub, inbox):
    hub.link.connect(inbox.put)

    hub.link.patch_reported({"a": {"x": 1, "y": 2}})
    hub.link.patch_reported({"a": {"x": None}, "b": "text"})

    assert hub.reported() == {"a": {"y": 2}, "b": "text"}
    assert hub.link.get_twin().reported.properties == {"a": {"y": 2}, "b": "text"}


def test_unconnected_link_refuses_at_once(hub, inbox):
    assert not hub.link.connected
    with pytest.raises(TransportError):
        hub.link.get_twin()
    with pytest.raises(TransportError):
        hub.link.patch_reported({"a": 1})

    hub.link.connect(inbox.put)
    hub.link.disconnect()
    hub.link.disconnect()

    assert not hub.link.connected
    with pytest.raises(TransportError):
        hub.link.patch_reported({"a": 1})
    assert hub.reported() == {}


def test_lost_connection_is_told_of_and_a_new_one_is_whole(hub, inbox):
    hub.link.connect(inbox.put)

    hub.go_away()

    assert inbox.get(WAIT_SECONDS) == LinkChanged()
    assert not hub.link.connected
    with pytest.raises(TransportError):
        hub.link.connect(inbox.put)
    hub.come_back()
    hub.link.connect(inbox.put)
    hub.desire({"a": 1})
    assert next_patch(inbox).properties == {"a": 1}
    hub.link.patch_reported({"b": 2})
    assert hub.reported() == {"b": 2}

"""Every way in which the agent signs in, from its settings to a class key in the CPM."""

import base64
import contextlib
import json
import os
import threading

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from simulators.device_processes import DEVICE_ID, DEVICE_KEY, DeviceProcesses
from simulators.provisioning_service import ID_SCOPE, Assignment, ProvisioningService
from simulators.workload_api import WorkloadApi

from device_agent.adapters.iot_hub_device import IotHubDevice
from device_agent.sign_in import Provisioned, SharedKey
from device_agent.twin_link import UNAUTHORIZED
from local_cloud.certificates import certificate_pem, issue_device
from shared.errors import TransportError
from shared.types import DeviceId, KeyName, Secret

APP = KeyName("my_confidential_app")


@pytest.fixture
def make_device(hub_process, tmp_path):
    made = []

    def make(device_id=DEVICE_ID):
        folder = tmp_path / "device"
        folder.mkdir()
        made.append(DeviceProcesses(hub_process, folder, DeviceId(device_id)))
        return made[0]

    yield make
    for device in made:
        device.close()


@pytest.fixture
def service(hub_process, tmp_path):
    folder = tmp_path / "provisioning"
    folder.mkdir()
    with contextlib.closing(
        ProvisioningService(folder, root=hub_process.root, device_ca=hub_process.fleet)
    ) as service:
        yield service


def client_files(hub_process, folder, device_id):
    """Write a client certificate and its key, and return the settings that name them."""
    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    certificate = issue_device(hub_process.fleet, device_id, spki, days=30)
    (folder / "client.pem").write_bytes(certificate_pem(certificate))
    (folder / "client.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / "client.key").chmod(0o600)
    return {
        "client_certificate_file": str(folder / "client.pem"),
        "client_key_file": str(folder / "client.key"),
    }


def receives_a_key(device, eventually):
    """Start both processes and follow a class key from the report to the acknowledgement."""
    device.start_cpm()
    device.start_agent()
    eventually(lambda: device.status() is not None, what="the first report")
    device.release(7, {APP: 3})
    eventually(lambda: device.has_installed(7, {APP: 3}), what="the acknowledgement")


def test_module_of_iot_edge_signs_in_by_the_workload_api(make_device, hub_process, tmp_path, eventually):
    device = make_device("edge-01/device-agent")
    device.registry.create_device_with_sas("edge-01", DEVICE_KEY, DEVICE_KEY, "enabled")
    module_key = base64.b64encode(os.urandom(32)).decode()
    device.registry.create_module_with_sas("edge-01", "device-agent", "", module_key, module_key)
    api = WorkloadApi(
        tmp_path / "workload.sock",
        module="device-agent",
        key=module_key,
        trust_bundle=hub_process.ca_file.read_text(),
    )
    with contextlib.closing(api):
        device.environment = api.environment(device="edge-01", hub="hub.test", gateway=hub_process.address)
        del device.settings["ca_file"]  # Edge names the roots

        receives_a_key(device, eventually)

    assert set(api.requests) == {
        "GET /trust-bundle",
        "POST /modules/device-agent/genid/638000000000000000/sign",
    }
    assert "device_public_key" not in device.registry.get_twin("edge-01").properties.reported


def test_workload_api_that_is_away_is_waited_for(make_device, hub_process, tmp_path, eventually):
    device = make_device("edge-01/device-agent")
    device.registry.create_device_with_sas("edge-01", DEVICE_KEY, DEVICE_KEY, "enabled")
    device.registry.create_module_with_sas("edge-01", "device-agent", "", DEVICE_KEY, DEVICE_KEY)
    device.environment = {
        "IOTEDGE_WORKLOADURI": f"unix://{tmp_path / 'workload.sock'}",
        "IOTEDGE_IOTHUBHOSTNAME": "hub.test",
        "IOTEDGE_GATEWAYHOSTNAME": hub_process.address,
        "IOTEDGE_DEVICEID": "edge-01",
        "IOTEDGE_MODULEID": "device-agent",
        "IOTEDGE_MODULEGENERATIONID": "638000000000000000",
        "IOTEDGE_APIVERSION": "2019-01-30",
    }
    device.start_cpm()
    device.start_agent()
    eventually(lambda: device.logged("connect_failed"), what="the complaint")

    api = WorkloadApi(
        tmp_path / "workload.sock",
        module="device-agent",
        key=DEVICE_KEY,
        trust_bundle=hub_process.ca_file.read_text(),
    )
    with contextlib.closing(api):
        eventually(lambda: device.status() is not None, what="the first report")


def test_device_signs_in_with_a_client_certificate(make_device, hub_process, eventually):
    device = make_device()
    device.registry.create_device_with_certificate_authority(DEVICE_ID, "enabled")
    device.settings |= {"hub_host": hub_process.address, "device_id": DEVICE_ID}
    device.settings |= client_files(hub_process, device.folder, DEVICE_ID)

    receives_a_key(device, eventually)


@pytest.mark.timeout(500)  # waits add up on a machine with much else to do
def test_client_certificate_of_another_device_is_refused_until_the_file_is_replaced(
    make_device, hub_process, eventually
):
    device = make_device()
    device.registry.create_device_with_certificate_authority(DEVICE_ID, "enabled")
    device.settings |= {"hub_host": hub_process.address, "device_id": DEVICE_ID}
    device.settings |= client_files(hub_process, device.folder, "edge-02")
    device.start_cpm()
    device.start_agent()
    [failure, *_] = eventually(lambda: device.logged("connect_failed"), what="the refusal")
    assert failure["code"] == "hub_unauthorized"

    client_files(hub_process, device.folder, DEVICE_ID)

    # Refused devices are tried once a minute.
    eventually(lambda: device.status() is not None, seconds=120, what="the first report")


@pytest.mark.timeout(500)  # waits add up on a machine with much else to do
@pytest.mark.parametrize("credential", ["key", "certificate"])
def test_hub_that_provisioning_assigns_is_used(make_device, hub_process, service, eventually, credential):
    device = make_device()
    if credential == "key":
        device.registry.create_device_with_sas(DEVICE_ID, DEVICE_KEY, DEVICE_KEY, "enabled")
        service.keys[DEVICE_ID] = DEVICE_KEY
        (device.folder / "dps.key").write_text(DEVICE_KEY)
        (device.folder / "dps.key").chmod(0o600)
        device.settings["provisioning_key_file"] = str(device.folder / "dps.key")
    else:
        device.registry.create_device_with_certificate_authority(DEVICE_ID, "enabled")
        device.settings |= client_files(hub_process, device.folder, DEVICE_ID)
    service.assignments[DEVICE_ID] = Assignment(device_id=DEVICE_ID, hub=hub_process.address)
    device.settings |= {
        "provisioning_host": service.address,
        "provisioning_id_scope": ID_SCOPE,
        "provisioning_registration_id": DEVICE_ID,
    }

    device.start_cpm()
    checked = device.ask_agent("check")
    assert "ok       hub sign in: the hub knows edge-01" in checked.stdout
    assert not (device.folder / "agent").exists()
    device.kill("cpm")
    service.registrations.clear()
    receives_a_key(device, eventually)

    [assigned] = device.logged("hub_assigned")
    assert assigned["hub"] == hub_process.address
    assert service.registrations == [DEVICE_ID]
    assert DEVICE_KEY not in device.log_file.read_text()
    device.kill("agent")
    service.assignments.clear()  # it would refuse now, and is not asked
    device.start_agent()
    eventually(lambda: len(device.logged("connected")) == 2, what="the next start")


@pytest.fixture
def provision(service, hub_process, tmp_path):
    """Make a link that asks the simulated service, in this process."""
    links = []

    def make(**changes):
        service.keys[DEVICE_ID] = DEVICE_KEY
        ask = {
            "device_id": DEVICE_ID,
            "service_host": service.address,
            "id_scope": ID_SCOPE,
            "registration_id": DEVICE_ID,
            "credential": SharedKey(key=Secret(DEVICE_KEY.encode())),
        }
        links.append(
            IotHubDevice.from_provisioning(
                Provisioned(**{**ask, **changes}),
                assignment_file=tmp_path / "assignment.json",
                ca_pem=hub_process.ca_file.read_text(),
            )
        )
        return links[-1]

    yield make
    for link in links:
        assert link.close(seconds=30)


@pytest.mark.parametrize(
    ("changes", "assignment"),
    [
        ({}, None),
        ({"credential": SharedKey(key=Secret(base64.b64encode(bytes(32))))}, (DEVICE_ID, "hub.invalid")),
        ({"id_scope": "0ne00OTHER"}, (DEVICE_ID, "hub.invalid")),
        ({}, ("edge-02", "hub.invalid")),
        ({}, (DEVICE_ID, "hub.invalid:443/path")),
    ],
    ids=["not enrolled", "wrong key", "wrong scope", "other device", "no host name"],
)
def test_provisioning_that_does_not_give_this_device_a_hub_is_told(
    service, provision, tmp_path, changes, assignment
):
    if assignment is not None:
        service.assignments[DEVICE_ID] = Assignment(device_id=assignment[0], hub=assignment[1])

    with pytest.raises(TransportError) as caught:
        provision(**changes).connect(lambda _event: None)

    assert caught.value.code in {UNAUTHORIZED, "unavailable"}
    assert DEVICE_KEY not in str(caught.value)
    assert not (tmp_path / "assignment.json").exists()


def test_hub_that_refuses_the_device_is_asked_for_again(service, provision, hub_process, tmp_path):
    registry = DeviceProcesses(hub_process, tmp_path).registry
    service.assignments[DEVICE_ID] = Assignment(device_id=DEVICE_ID, hub=hub_process.address)
    link = provision()
    for _ in range(2):
        with pytest.raises(TransportError) as caught:
            link.connect(lambda _event: None)  # the hub does not know it yet
        assert caught.value.code == UNAUTHORIZED
    registry.create_device_with_sas(DEVICE_ID, DEVICE_KEY, DEVICE_KEY, "enabled")

    link.connect(lambda _event: None)

    assert link.get_twin().reported.properties == {}
    assert service.registrations == [DEVICE_ID] * 3
    assert json.loads((tmp_path / "assignment.json").read_text())["hub"] == hub_process.address


def test_failed_provisioning_leaves_no_thread_behind(service, provision, eventually):
    link = provision()
    before = threading.active_count()

    for _ in range(3):
        with pytest.raises(TransportError):
            link.connect(lambda _event: None)

    eventually(lambda: threading.active_count() <= before, what="the end of the SDK's threads")

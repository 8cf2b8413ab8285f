"""The hub, as the unmodified device SDK meets it."""

import base64
import contextlib
import datetime as dt
import queue

import pytest
from azure.iot.device import X509, IoTHubDeviceClient, IoTHubModuleClient, Message, MethodResponse
from azure.iot.device.exceptions import ClientError, CredentialError
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import CloudToDeviceMethod, Twin, TwinProperties
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from local_cloud.certificates import certificate_pem, create_authority, issue_device

KEY = base64.b64encode(b"k" * 32).decode()
SECOND_KEY = base64.b64encode(b"s" * 32).decode()


@pytest.fixture
def registry(hub_process):
    return IoTHubRegistryManager.from_connection_string(hub_process.service_connection_string)


@pytest.fixture
def connect(hub_process, registry):
    """Connect a device over SAS; every client is shut down at the end."""
    clients = []

    def connected(device_id, *, key=KEY, host=None, ca_file=None, client=None, **options):
        options |= {"server_verification_cert": (ca_file or hub_process.ca_file).read_text()}
        options |= {"connection_retry_interval": 1}
        if client is None:
            host = host or f"HostName={hub_process.address}"
            text = f"{host};DeviceId={device_id};SharedAccessKey={key}"
            client = IoTHubDeviceClient.create_from_connection_string(text, **options)
        clients.append(client)
        client.connect()
        return client

    yield connected
    for client in clients:
        with contextlib.suppress(ClientError):
            client.shutdown()


def register(registry, device_id):
    return registry.create_device_with_sas(device_id, KEY, SECOND_KEY, "enabled")


def desired(**values):
    return Twin(properties=TwinProperties(desired=values))


def device_certificate(authority, device_id, folder):
    """Write a device's key and a certificate that an authority issued over it."""
    key = ec.generate_private_key(ec.SECP256R1())
    spki = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    certificate = issue_device(authority, device_id, spki, days=1)
    return certificate, write_x509(folder, device_id, certificate_pem(certificate), key)


def write_x509(folder, name, certificate, key):
    (folder / f"{name}.pem").write_bytes(certificate)
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return X509(str(folder / f"{name}.pem"), str(folder / f"{name}.key"))


def self_signed(key, common_name):
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )


def x509_client(hub, device_id, identity):
    return IoTHubDeviceClient.create_from_x509_certificate(
        identity, hub.address, device_id, server_verification_cert=hub.ca_file.read_text()
    )


@pytest.mark.parametrize("key", [KEY, SECOND_KEY])
def test_twin_is_read_and_reported_over_either_key(registry, connect, key):
    register(registry, "edge-01")
    client = connect("edge-01", key=key)

    before = client.get_twin()
    client.patch_twin_reported_properties({"colour": "red", "size": {"width": 3, "height": 4}})
    client.patch_twin_reported_properties({"colour": None, "size": {"width": 5}})

    assert before == {"desired": {"$version": 1}, "reported": {"$version": 1}}
    assert client.get_twin()["reported"] == {"size": {"width": 5, "height": 4}, "$version": 3}
    assert registry.get_twin("edge-01").properties.reported["size"] == {"width": 5, "height": 4}


def test_gateway_host_name_leads_to_the_hub_under_its_own_name(hub_process, registry, connect):
    register(registry, "edge-01")

    client = connect("edge-01", host=f"HostName=hub.test;GatewayHostName={hub_process.address}")

    assert client.get_twin()["reported"]["$version"] == 1


def test_every_desired_write_is_pushed_with_its_version(registry, connect):
    register(registry, "edge-01")
    patches = queue.Queue()
    client = connect("edge-01")
    client.on_twin_desired_properties_patch_received = patches.put
    client.get_twin()

    registry.update_twin("edge-01", desired(a={"b": 1, "c": 2}))
    first = patches.get(timeout=120)
    registry.update_twin("edge-01", desired(a={"b": None}))

    assert first == {"a": {"b": 1, "c": 2}, "$version": 2}
    assert patches.get(timeout=120) == {"a": {"b": None}, "$version": 3}
    assert client.get_twin()["desired"] == {"a": {"c": 2}, "$version": 3}


def test_devices_do_not_see_each_other(registry, connect):
    patches = {}
    for device_id in ("edge-01", "edge-02"):
        register(registry, device_id)
        patches[device_id] = queue.Queue()
        client = connect(device_id)
        client.on_twin_desired_properties_patch_received = patches[device_id].put
        client.patch_twin_reported_properties({"i_am": device_id})

    registry.update_twin("edge-01", desired(**{"for": "edge-01"}))
    registry.update_twin("edge-02", desired(**{"for": "edge-02"}))

    for device_id, received in patches.items():
        assert received.get(timeout=120)["for"] == device_id
        assert registry.get_twin(device_id).properties.reported["i_am"] == device_id
        assert received.empty()


def test_module_has_a_twin_of_its_own(hub_process, registry, connect):
    register(registry, "edge-01")
    registry.create_module_with_sas("edge-01", "agent", "tests", KEY, SECOND_KEY)
    client = IoTHubModuleClient.create_from_connection_string(
        f"HostName={hub_process.address};DeviceId=edge-01;ModuleId=agent;SharedAccessKey={KEY}",
        server_verification_cert=hub_process.ca_file.read_text(),
    )
    connect("edge-01/agent", client=client)

    client.patch_twin_reported_properties({"from": "module"})

    assert registry.get_module_twin("edge-01", "agent").properties.reported["from"] == "module"
    assert "from" not in registry.get_twin("edge-01").properties.reported


@pytest.mark.parametrize(
    ("patch", "status"),
    [
        ({"a.b": 1}, 400),
        ({"long": "x" * 4097}, 400),
        ({"big": 2**53}, 400),
        ({f"k{n}": "x" * 4000 for n in range(9)}, 413),
    ],
    ids=["name", "string", "integer", "size"],
)
def test_patch_beyond_a_limit_is_refused_and_changes_nothing(registry, connect, patch, status):
    register(registry, "edge-01")
    client = connect("edge-01")

    with pytest.raises(ClientError) as caught:
        client.patch_twin_reported_properties(patch)

    assert str(status) in str(caught.value.__cause__)
    assert client.get_twin()["reported"] == {"$version": 1}


def test_direct_method_is_answered(registry, connect):
    register(registry, "edge-01")
    client = connect("edge-01")

    def echo(request):
        client.send_method_response(MethodResponse(request.request_id, 207, {"heard": request.payload}))

    client.on_method_request_received = echo
    method = CloudToDeviceMethod(
        method_name="echo",
        payload={"say": "hello"},
        response_timeout_in_seconds=120,
        connect_timeout_in_seconds=120,
    )

    result = registry.invoke_device_method("edge-01", method)

    assert (result.status, result.payload) == (207, {"heard": {"say": "hello"}})


def test_telemetry_is_accepted(registry, connect):
    register(registry, "edge-01")
    client = connect("edge-01")

    client.send_message(Message('{"temperature": 21}'))

    assert client.connected


@pytest.mark.parametrize(
    ("device_id", "key"),
    [("edge-01", base64.b64encode(b"x" * 32).decode()), ("nobody", KEY)],
    ids=["wrong key", "unknown device"],
)
def test_unproven_device_is_refused(registry, connect, device_id, key):
    register(registry, "edge-01")

    with pytest.raises(CredentialError):
        connect(device_id, key=key)

    assert registry.get_twin("edge-01").connection_state == "Disconnected"


def test_disabled_device_is_cut_off_and_refused(registry, connect, eventually):
    device = register(registry, "edge-01")
    client = connect("edge-01", connection_retry=False)

    registry.update_device_with_sas("edge-01", device.etag, KEY, SECOND_KEY, "disabled")

    eventually(lambda: not client.connected, what="the disconnection")
    with pytest.raises(CredentialError):
        connect("edge-01")


def test_client_that_trusts_another_authority_does_not_connect(registry, connect, tmp_path):
    register(registry, "edge-01")
    other = tmp_path / "other.pem"
    other.write_bytes(create_authority("Somebody Else", days=1).certificate_pem)

    with pytest.raises(ClientError, match="TLS"):
        connect("edge-01", ca_file=other, connection_retry=False)

    assert registry.get_service_statistics().connected_device_count == 0


def test_device_connects_with_a_certificate_of_the_fleet(hub_process, registry, connect, tmp_path):
    registry.create_device_with_certificate_authority("edge-01", "enabled")
    _, identity = device_certificate(hub_process.fleet, "edge-01", tmp_path)

    client = connect("edge-01", client=x509_client(hub_process, "edge-01", identity))

    assert client.get_twin()["reported"]["$version"] == 1


def test_certificate_of_another_device_is_refused(hub_process, registry, connect, tmp_path):
    registry.create_device_with_certificate_authority("edge-01", "enabled")
    _, identity = device_certificate(hub_process.fleet, "edge-02", tmp_path)

    with pytest.raises(CredentialError):
        connect("edge-01", client=x509_client(hub_process, "edge-01", identity))


@pytest.mark.parametrize("algorithm", [hashes.SHA1(), hashes.SHA256()], ids=["sha1", "sha256"])
def test_device_connects_with_the_certificate_of_its_thumbprint(
    hub_process, registry, connect, tmp_path, algorithm
):
    certificate, identity = device_certificate(hub_process.fleet, "edge-01", tmp_path)
    thumbprint = certificate.fingerprint(algorithm).hex()
    registry.create_device_with_x509("edge-01", thumbprint, thumbprint, "enabled")

    client = connect("edge-01", client=x509_client(hub_process, "edge-01", identity))

    assert client.get_twin()["reported"]["$version"] == 1


def test_certificate_of_another_thumbprint_is_refused(hub_process, registry, connect, tmp_path):
    _, identity = device_certificate(hub_process.fleet, "edge-01", tmp_path)
    registry.create_device_with_x509("edge-01", "AB" * 20, "CD" * 20, "enabled")

    with pytest.raises(CredentialError):
        connect("edge-01", client=x509_client(hub_process, "edge-01", identity))


def test_self_signed_anchor_serves_its_thumbprint_and_no_other_device(
    hub_process, registry, connect, tmp_path
):
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = self_signed(key, "edge-02")  # the common name is another device's id
    identity = write_x509(tmp_path, "self", certificate_pem(certificate), key)
    hub_process.client_ca_file.write_bytes(hub_process.fleet.certificate_pem + certificate_pem(certificate))
    hub_process.restart()
    thumbprint = certificate.fingerprint(hashes.SHA256()).hex()
    registry.create_device_with_x509("edge-01", thumbprint, thumbprint, "enabled")
    registry.create_device_with_certificate_authority("edge-02", "enabled")

    client = connect("edge-01", client=x509_client(hub_process, "edge-01", identity))

    assert client.get_twin()["reported"]["$version"] == 1
    with pytest.raises(CredentialError):
        connect("edge-02", client=x509_client(hub_process, "edge-02", identity))

"""The hub, as the unmodified service SDK meets it; and its local feed of twin changes."""

import base64
import ssl
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from azure.core.credentials import AccessToken
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import (
    AuthenticationMechanism,
    CloudToDeviceMethod,
    ExportImportDevice,
    QuerySpecification,
    SymmetricKey,
    Twin,
    TwinProperties,
)
from azure.iot.hub.sastoken import SasToken
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from msrest.exceptions import HttpOperationError

from local_cloud.tokens import HUB_AUDIENCE, VAULT_AUDIENCE, mint

KEY = base64.b64encode(b"k" * 32).decode()


@pytest.fixture
def registry(hub_process):
    return IoTHubRegistryManager.from_connection_string(hub_process.service_connection_string)


def register(registry, device_id):
    return registry.create_device_with_sas(device_id, KEY, KEY, "enabled")


def desired(**values):
    return Twin(properties=TwinProperties(desired=values))


def refusal(action):
    """Return the status and the error code that an action is refused with."""
    with pytest.raises(HttpOperationError) as caught:
        action()
    response = caught.value.response
    return response.status_code, response.headers.get("iothub-errorcode")


def ids(result):
    return [twin.device_id for twin in result.items]


def values(twin_properties):
    return {name: value for name, value in twin_properties.items() if not name.startswith("$")}


def test_identity_is_created_once_changed_under_its_etag_and_deleted(registry):
    device = register(registry, "edge-01")

    assert refusal(lambda: register(registry, "edge-01")) == (409, "DeviceAlreadyExists")
    changed = registry.update_device_with_sas(
        "edge-01", device.etag, KEY, KEY, "disabled", status_reason="repair"
    )
    assert (changed.status, changed.status_reason) == ("disabled", "repair")
    stale = refusal(lambda: registry.update_device_with_sas("edge-01", device.etag, KEY, KEY, "enabled"))
    assert stale == (412, "PreconditionFailed")
    registry.delete_device("edge-01")
    assert refusal(lambda: registry.get_device("edge-01")) == (404, "DeviceNotFound")


def test_identity_without_keys_gets_keys_of_its_own(registry):
    made = registry.create_device_with_sas("edge-01", None, None, "enabled").authentication.symmetric_key

    assert len(base64.b64decode(made.primary_key)) == 32
    assert made.primary_key != made.secondary_key


def test_modules_live_and_end_with_their_device(registry):
    register(registry, "edge-01")
    registry.create_module_with_sas("edge-01", "agent", "tests", KEY, KEY)

    assert [module.module_id for module in registry.get_modules("edge-01")] == ["agent"]
    missing = refusal(lambda: registry.create_module_with_sas("edge-02", "agent", "tests", KEY, KEY))
    registry.delete_device("edge-01")

    assert missing == (404, "DeviceNotFound")
    assert refusal(lambda: registry.get_module("edge-01", "agent")) == (404, "ModuleNotFound")


def test_devices_are_listed_and_counted(registry):
    for number in range(3):
        register(registry, f"edge-{number}")
    registry.create_device_with_certificate_authority("edge-off", "disabled")

    assert [device.device_id for device in registry.get_devices(2)] == ["edge-0", "edge-1"]
    counts = registry.get_device_registry_statistics()
    assert (counts.total_device_count, counts.enabled_device_count) == (4, 3)
    assert registry.get_service_statistics().connected_device_count == 0


def test_twin_patch_merges_and_null_deletes(registry):
    register(registry, "edge-01")

    registry.update_twin("edge-01", Twin(tags={"class": "gateway", "site": {"hall": 1, "row": 2}}))
    twin = registry.update_twin("edge-01", Twin(tags={"site": {"row": None}}))

    assert twin.tags == {"class": "gateway", "site": {"hall": 1}}


def test_twin_is_replaced_section_by_section(registry):
    register(registry, "edge-01")
    registry.update_twin(
        "edge-01", Twin(tags={"class": "gateway"}, properties=TwinProperties(desired={"a": 1}))
    )

    twin = registry.replace_twin("edge-01", desired(b=2), "*")

    assert values(twin.properties.desired) == {"b": 2}
    assert twin.properties.desired["$version"] == 3
    assert twin.tags == {"class": "gateway"}


def test_stale_etag_is_refused_and_changes_nothing(registry):
    register(registry, "edge-01")
    etag = registry.get_twin("edge-01").etag
    registry.update_twin("edge-01", desired(a=1), etag)

    stale = refusal(lambda: registry.update_twin("edge-01", desired(a=2), etag))

    assert stale == (412, "PreconditionFailed")
    assert values(registry.get_twin("edge-01").properties.desired) == {"a": 1}


def test_update_without_an_etag_matches_any(registry):
    register(registry, "edge-01")

    for number in range(2):
        registry.update_twin("edge-01", desired(a=number))

    assert registry.get_twin("edge-01").properties.desired["a"] == 1


@pytest.mark.parametrize(
    ("update", "refused"),
    [
        (Twin(tags={"a.b": 1}), (400, "ArgumentInvalid")),
        (Twin(tags={f"k{n}": "x" * 1000 for n in range(9)}), (413, "TwinSizeExceeded")),
        (Twin(properties=TwinProperties(reported={"a": 1})), (400, "ArgumentInvalid")),
    ],
    ids=["name", "size", "reported"],
)
def test_update_beyond_a_limit_is_refused(registry, update, refused):
    register(registry, "edge-01")

    assert refusal(lambda: registry.update_twin("edge-01", update)) == refused
    assert registry.get_twin("edge-01").version == 2


def bulk_entry(number, **fields):
    keys = AuthenticationMechanism(type="sas", symmetric_key=SymmetricKey(primary_key=KEY, secondary_key=KEY))
    fields = {
        "import_mode": "create",
        "status": "enabled",
        "authentication": keys,
        "tags": {"n": number % 3},
    } | fields
    return ExportImportDevice(id=f"b{number:03}", **fields)


def test_bulk_creates_with_tags_and_tells_each_failure_by_itself(registry):
    result = registry.bulk_create_or_update_devices([bulk_entry(number) for number in range(100)])
    again = registry.bulk_create_or_update_devices([bulk_entry(1), bulk_entry(100)])

    assert result.is_successful
    assert not again.is_successful
    assert [(error.device_id, error.error_code) for error in again.errors] == [
        ("b001", "DeviceAlreadyExists")
    ]
    assert registry.get_twin("b100").tags == {"n": 1}
    assert registry.bulk_create_or_update_devices([bulk_entry(1, import_mode="delete")]).is_successful
    assert refusal(lambda: registry.get_device("b001")) == (404, "DeviceNotFound")


def test_query_pages_through_every_match_once(registry):
    registry.bulk_create_or_update_devices([bulk_entry(number) for number in range(60)])
    query = QuerySpecification(query="SELECT * FROM devices WHERE tags.n IN [0, 1]")

    found, pages, token = [], 0, None
    while token is not None or not pages:
        page = registry.query_iot_hub(query, token, 16)
        found += ids(page)
        pages, token = pages + 1, page.continuation_token

    assert found == [f"b{number:03}" for number in range(60) if number % 3 != 2]
    assert pages == 3


def test_query_projects_and_groups(registry):
    registry.bulk_create_or_update_devices([bulk_entry(number) for number in range(10)])

    projected = registry.query_iot_hub(
        QuerySpecification(query="SELECT deviceId, tags.n AS n FROM devices WHERE tags.n = 2")
    )
    grouped = registry.query_iot_hub(
        QuerySpecification(query="SELECT tags.n AS n, COUNT() AS c FROM devices GROUP BY tags.n")
    )

    assert [row.additional_properties["n"] for row in projected.items] == [2, 2, 2]
    assert {row.additional_properties["n"]: row.additional_properties["c"] for row in grouped.items} == {
        0: 4,
        1: 3,
        2: 3,
    }


def test_query_of_modules_sees_modules_alone(registry):
    register(registry, "edge-01")
    registry.create_module_with_sas("edge-01", "agent", "tests", KEY, KEY)

    page = registry.query_iot_hub(QuerySpecification(query="SELECT * FROM devices.modules"))

    assert [(twin.device_id, twin.module_id) for twin in page.items] == [("edge-01", "agent")]


def test_query_outside_the_language_is_refused(registry):
    wrong = QuerySpecification(query="SELECT * FROM devices WHERE tags.n =")

    assert refusal(lambda: registry.query_iot_hub(wrong)) == (400, "ArgumentInvalid")


def test_method_on_a_device_that_is_away_is_refused(registry):
    register(registry, "edge-01")
    method = CloudToDeviceMethod(
        method_name="reboot", response_timeout_in_seconds=5, connect_timeout_in_seconds=0
    )

    assert refusal(lambda: registry.invoke_device_method("edge-01", method)) == (404, "DeviceNotOnline")


@pytest.mark.parametrize(
    ("host", "key", "policy"),
    [(None, KEY, "service"), (None, None, "iothubowner"), ("elsewhere.test", None, "service")],
    ids=["key", "policy", "host"],
)
def test_service_signature_must_fit(hub_process, registry, host, key, policy):
    register(registry, "edge-01")
    host = host or f"{hub_process.address}:{hub_process.https_port}"
    token = str(SasToken(host, key or hub_process.service_key, policy))

    with service(hub_process) as client:
        answer = client.get(
            "/twins/edge-01", params={"api-version": "2021-04-12"}, headers={"Authorization": token}
        )

    assert answer.status_code == 401
    assert answer.headers["iothub-errorcode"] == "IotHubUnauthorizedAccess"


class Tokens:
    """A credential as azure-identity has them."""

    def __init__(self, key, audience):
        self._key, self._audience = key, audience

    def get_token(self, *scopes, **_options):
        token = mint(self._key, audience=self._audience, subject="tests", lifetime=300)
        return AccessToken(token, int(time.time()) + 300)


@pytest.fixture
def identity_key(hub_process):
    """The private key of access tokens that the hub, started again, accepts."""
    key = ec.generate_private_key(ec.SECP256R1())
    public = hub_process.folder / "identity.pem"
    public.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    hub_process.kill()
    hub_process.start("--identity-public-key", str(public))
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def test_access_token_for_the_hub_opens_it(hub_process, identity_key):
    host = f"{hub_process.address}:{hub_process.https_port}"
    registry = IoTHubRegistryManager.from_token_credential(host, Tokens(identity_key, HUB_AUDIENCE))

    assert register(registry, "edge-01").device_id == "edge-01"


def test_access_token_for_another_audience_is_refused(hub_process, identity_key):
    host = f"{hub_process.address}:{hub_process.https_port}"
    registry = IoTHubRegistryManager.from_token_credential(host, Tokens(identity_key, VAULT_AUDIENCE))

    assert refusal(lambda: registry.get_twin("edge-01")) == (401, "IotHubUnauthorizedAccess")


def test_tier_throttles_with_a_time_to_wait(hub_process, registry):
    hub_process.kill()
    hub_process.start("--tier", "S1")
    with service(hub_process) as client:
        queries = [
            client.post("/devices/query?api-version=2021-04-12", json={"query": "SELECT * FROM devices"})
            for _ in range(60)
        ]

    assert [response.status_code for response in queries[:20]] == [200] * 20
    assert queries[-1].status_code == 429
    assert queries[-1].headers["Retry-After"] == "10"
    assert queries[-1].headers["iothub-errorcode"] == "ThrottlingException"


def service(hub_process):
    """Return an HTTP client that is authorized as the SDK is."""
    host = f"{hub_process.address}:{hub_process.https_port}"
    token = str(SasToken(host, hub_process.service_key, "service"))
    return httpx.Client(
        base_url=f"https://{host}",
        headers={"Authorization": token},
        verify=ssl.create_default_context(cafile=hub_process.ca_file),
        timeout=120,
    )


def test_changes_are_told_in_order_and_from_any_point(hub_process, registry):
    register(registry, "edge-01")
    registry.create_module_with_sas("edge-01", "agent", "tests", KEY, KEY)
    registry.update_twin("edge-01", Twin(tags={"class": "gateway"}))
    registry.replace_twin("edge-01", desired(a=1), "*")
    registry.update_module_twin("edge-01", "agent", desired(b=2))

    with service(hub_process) as client:
        first = client.get("/local/events", params={"after": 0, "max": 2}).json()
        rest = client.get("/local/events", params={"after": first["last"]}).json()
        none = client.get("/local/events", params={"after": rest["last"], "wait_seconds": 0}).json()

    events = first["events"] + rest["events"]
    assert [event["seq"] for event in events] == [1, 2, 3]
    assert {event["source"] for event in events} == {"twinChangeEvents"}
    assert [event["properties"]["opType"] for event in events] == ["updateTwin", "replaceTwin", "updateTwin"]
    assert [event["properties"].get("moduleId") for event in events] == [None, None, "agent"]
    assert events[0]["body"] == {"version": 3, "tags": {"class": "gateway"}}
    assert values(events[1]["body"]["properties"]["desired"]) == {"a": 1}
    assert events[2]["system_properties"]["iothub-message-source"] == "twinChangeEvents"
    assert none == {"events": [], "last": 3}


def test_waiting_reader_is_told_of_a_change_when_it_comes(hub_process, registry):
    register(registry, "edge-01")

    with service(hub_process) as client, ThreadPoolExecutor() as pool:
        waiting = pool.submit(client.get, "/local/events", params={"after": 0, "wait_seconds": 60})
        registry.update_twin("edge-01", desired(a=1))
        told = waiting.result(timeout=120).json()

    assert [event["seq"] for event in told["events"]] == [1]


def test_feed_needs_the_service_authorization(hub_process):
    with service(hub_process) as client:
        answer = client.get("/local/events", headers={"Authorization": ""})

    assert answer.status_code == 401


@pytest.mark.parametrize(
    ("request_line", "body", "status"),
    [
        ("GET /twins/edge-01", None, 400),
        ("PATCH /twins/edge-01?api-version=2021-04-12", b'{"tags":{"a":1,"a":2}}', 400),
        ("PATCH /twins/edge-01?api-version=2021-04-12", b'{"tags":{"a":1e400}}', 400),
        ("PATCH /twins/edge-01?api-version=2021-04-12", b"[" * 100_000, 400),
        ("PATCH /twins/edge-01?api-version=2021-04-12", b"\xff", 400),
        ("PUT /devices/a%2Fb?api-version=2021-04-12", b"{}", 400),
        ("PUT /devices/a%20b?api-version=2021-04-12", b"{}", 400),
        ("PUT /devices/c?api-version=2021-04-12", b'{"authentication":{"type":"none"}}', 400),
        ("POST /devices?api-version=2021-04-12", b'{"id":"a"}', 400),
        ("POST /devices/query?api-version=2021-04-12", b'{"query":1}', 400),
        ("GET /local/events?after=-1", None, 400),
        ("PATCH /twins/edge-01?api-version=2021-04-12", b'"' + b"x" * (2 << 20) + b'"', 413),
        ("GET /configurations/x?api-version=2021-04-12", None, 404),
    ],
)
def test_malformed_request_is_told_what_is_wrong_and_changes_nothing(
    hub_process, registry, request_line, body, status
):
    register(registry, "edge-01")

    with service(hub_process) as client:
        answer = client.request(*request_line.split(" "), content=body)

    assert answer.status_code == status
    assert registry.get_twin("edge-01").version == 2
    assert registry.get_device_registry_statistics().total_device_count == 1

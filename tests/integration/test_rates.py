"""Rates, throttles and refusals: the real SDKs against a hub and a vault that have had enough."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from azure.iot.hub import IoTHubRegistryManager
from azure.iot.hub.models import Twin
from simulators.app import environment
from simulators.cloud import APP, Cloud
from simulators.fleet import NOW, Device
from simulators.interposed_hub import InterposedHub
from simulators.recorded_telemetry import RecordedTelemetry
from simulators.vault_process import IdentityEndpoint, VaultProcess
from simulators.virtual_time import VirtualTime

from functions import telemetry
from functions.adapters.iot_hub import ATTEMPTS, HubTwinRegistry, configure
from functions.adapters.key_vault import VaultReleaseSigner, make_key_client
from functions.call_rates import CallRates, hub_rates, vault_rates
from functions.services import connect
from functions.settings import Settings
from functions.token_bucket import BusyError
from local_cloud.twin_hub.identities import Authentication, AuthenticationKind, IdentityRequest
from local_cloud.twin_hub.store import Store
from local_cloud.vault_keys import RELEASE_KEY_NAME, ensure_vault_keys
from shared.errors import Conflict, NotFound, TransportError
from shared.twin.capacity import HubLimits, VaultLimits
from shared.twin.reconcile import Unchanged, Write
from shared.types import DeviceId

WORKERS = 4

pytestmark = pytest.mark.timeout(300)


class Fleet:
    """Devices that have reported, in the state of a hub that is started afterwards.

    Attributes:
        cloud: The function app's core; its registry is the hub's, through the SDK.
    """

    def __init__(self, hub, size: int) -> None:
        self.hub, self.cloud = hub, Cloud()
        self.cloud.class_keys.provision(APP, bits=256)
        self.ids = [DeviceId(f"edge-{number:03}") for number in range(size)]
        hub.kill()
        store = Store(hub.folder / "hub" / "hub.db", hub_name="local-hub", clock=lambda: NOW)
        authority = Authentication(kind=AuthenticationKind.CERTIFICATE_AUTHORITY)
        for device_id in self.ids:
            store.create_identity(device_id, IdentityRequest(authentication=authority))
            store.patch_reported(device_id, Device.make(self.cloud.authority, device_id).report())
        store.close()

    def start(self, *options: str, rates: CallRates, host: str | None = None, sleep=None) -> None:
        """Start the hub, and give the devices their class."""
        self.hub.start()
        service = IoTHubRegistryManager.from_connection_string(self.hub.service_connection_string)
        service.protocol.config.keep_alive = True
        for device_id in self.ids:
            service.update_twin(device_id, Twin(tags={"class": "gateway"}))
        self.service = service
        self.hub.kill()
        self.hub.start(*options)

        address = host or f"{self.hub.address}:{self.hub.https_port}"
        secret = f"SharedAccessKeyName=service;SharedAccessKey={self.hub.service_key}"

        def connect() -> IoTHubRegistryManager:
            client = IoTHubRegistryManager.from_connection_string(f"HostName={address};{secret}")
            configure(client)
            return client

        self.cloud.registry = HubTwinRegistry(connect, rates=rates, sleep=sleep)

    def distribute(self) -> list[DeviceId]:
        """Make a pass, its pages on as many threads as the host has workers; return who failed."""
        one_pass = self.cloud.distributor.begin_pass(correlation_id="test")
        unsettled, token = [], None
        while True:
            page = self.cloud.registry.rows(token=token)
            unsettled += one_pass.unsettled(page.rows)
            token = page.next_token
            if token is None:
                break
        assert sorted(unsettled) == self.ids
        with ThreadPoolExecutor(WORKERS) as pool:
            pages = [unsettled[start::WORKERS] for start in range(WORKERS)]
            return [device_id for failed in pool.map(one_pass.reconcile_all, pages) for device_id in failed]

    def states(self) -> set[str]:
        """Return what the hub's state says of the devices."""
        self.hub.kill()
        store = Store(self.hub.folder / "hub" / "hub.db", hub_name="local-hub", clock=lambda: NOW)
        try:
            tags = [store.twin(device_id).tags.get("confidential_packages") or {} for device_id in self.ids]
            return {str(json.loads(json.dumps(tag)).get("state")) for tag in tags}
        finally:
            store.close()

    def close(self) -> None:
        """Let go of the SDK's clients, which speak up where the interpreter's end finds them."""
        self.service = self.cloud.registry = None


@pytest.fixture
def make_fleet(hub_process):
    made = []

    def make(size):
        made.append(Fleet(hub_process, size))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_a_pass_over_more_than_a_burst_stays_within_the_hubs_limits_and_loses_nobody(make_fleet):
    fleet = make_fleet(60)
    limits = HubLimits(reads=40, updates=20, queries=10, messages=1_000_000)
    throttles = ("twin-reads=40/1", "twin-updates=20/1", "queries=10/1")
    options = [word for text in throttles for word in ("--throttle", text)]
    fleet.start(*options, "--retry-after", "1", rates=hub_rates(limits.share(75), instances=1))
    with RecordedTelemetry() as recorded:
        assert fleet.distribute() == []
    assert recorded.count(telemetry.THROTTLED) == 0
    assert recorded.count(telemetry.RATE_WAIT, peer="hub", call="twin_update") > 0
    assert fleet.states() == {"released"}


def test_a_hub_that_throttles_all_the_same_is_waited_for_and_nobody_is_lost(make_fleet):
    fleet = make_fleet(30)
    options = ("--throttle", "twin-updates=10/1", "--throttle", "queries=1/1", "--retry-after", "1")
    fleet.start(*options, rates=CallRates("hub"))
    with RecordedTelemetry() as recorded:
        assert fleet.distribute() == []
    assert recorded.count(telemetry.THROTTLED, peer="hub", call="twin_update") > 0
    assert fleet.states() == {"released"}


@pytest.fixture
def interposed(hub_process):
    proxy = InterposedHub(hub_process)
    yield proxy
    proxy.close()


@pytest.fixture
def time():
    return VirtualTime()


@pytest.fixture
def fleet(make_fleet, interposed, time):
    """One device, its hub behind a proxy, no wait a real one."""
    one = make_fleet(1)
    rates = CallRates("hub", clock=time.clock, sleep=time.sleep)
    one.start("--hostname", interposed.host, rates=rates, host=interposed.host, sleep=time.sleep)
    return one


def reconcile(fleet, device_id="edge-000"):
    one_pass = fleet.cloud.distributor.begin_pass(correlation_id="test")
    return one_pass.reconcile(DeviceId(device_id))


def touched(fleet):
    """Let somebody else write the twin before a request gets there."""
    return lambda _: fleet.service.update_twin("edge-000", Twin(tags={"seen": str(object())}))


def instead(status: int, **headers: str):
    def answer(request):
        request.instead = status, {name.replace("_", "-"): value for name, value in headers.items()}

    return answer


class TestRefusals:
    def test_412_is_read_again_up_to_three_times(self, fleet, interposed):
        interposed.steps["PATCH"] = [touched(fleet)] * 3
        assert isinstance(reconcile(fleet), Write)
        assert interposed.requests == ["GET", "PATCH"] * 4
        assert fleet.states() == {"released"}

    def test_a_fourth_412_is_left_to_the_next_attempt(self, fleet, interposed):
        interposed.steps["PATCH"] = [touched(fleet)] * 4
        with pytest.raises(Conflict):
            reconcile(fleet)
        assert interposed.requests == ["GET", "PATCH"] * 4

    def test_404_drops_the_device_whether_it_is_gone_before_the_read_or_before_the_write(
        self, fleet, interposed
    ):
        assert reconcile(fleet, "edge-999") is None
        interposed.steps["PATCH"] = [lambda _: fleet.service.delete_device("edge-000")]
        assert reconcile(fleet) is None
        assert interposed.requests == ["GET", "GET", "PATCH"]

    @pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
    @pytest.mark.parametrize("method", ["GET", "PATCH"])
    def test_429_and_5xx_are_tried_again_after_as_long_as_the_hub_asks(
        self, fleet, interposed, time, method, status
    ):
        interposed.steps[method] = [instead(status, Retry_After="7"), instead(status, Retry_After="3")]
        assert isinstance(reconcile(fleet), Write)
        assert time.slept == [7, 3]
        assert fleet.states() == {"released"}

    @pytest.mark.parametrize("status", [429, 503])
    def test_without_being_told_it_backs_off_with_jitter_and_gives_up_in_the_end(
        self, fleet, interposed, time, status
    ):
        interposed.steps["PATCH"] = [instead(status)] * ATTEMPTS
        with pytest.raises(TransportError):
            reconcile(fleet)
        assert interposed.requests.count("PATCH") == ATTEMPTS
        assert len(time.slept) == ATTEMPTS - 1
        for attempt, wait in enumerate(time.slept, start=1):
            assert 0.5 * 2**attempt <= wait <= 2**attempt

    def test_a_write_whose_answer_is_lost_is_not_made_twice(self, fleet, interposed):
        def lose(request):
            request.lost = 503

        interposed.steps["PATCH"] = [lose]
        assert isinstance(reconcile(fleet), Unchanged)
        assert interposed.requests == ["GET", "PATCH", "PATCH", "GET"]
        assert fleet.states() == {"released"}

    @pytest.mark.parametrize(("status", "kind"), [(429, TransportError), (404, NotFound)])
    def test_a_refused_query_is_as_any_other(self, fleet, interposed, time, status, kind):
        interposed.steps["POST"] = [instead(status, Retry_After="9")] * ATTEMPTS
        with pytest.raises(kind):
            fleet.cloud.registry.rows(token=None)
        assert time.slept == [9] * (ATTEMPTS - 1 if kind is TransportError else 0)


class Vault:
    """A vault that throttles, and the release key in it through the SDK."""

    def __init__(self, folder, throttle: str, rates: CallRates, monkeypatch) -> None:
        self.process = VaultProcess(folder)
        options = {"identity_key": self.process.operator._key, "ca_file": self.process.ca_file}
        ensure_vault_keys(self.process.url, **options)
        self.process.close()
        self.process = VaultProcess(folder, "--throttle", throttle)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(self.process.ca_file))
        credential = self.process.function_app
        keys = make_key_client(self.process.url, credential, verify_challenge=False, rates=rates)
        self.signer = VaultReleaseSigner(keys, RELEASE_KEY_NAME)

    def sign(self, count: int) -> None:
        """Have so many digests signed on as many threads as the host has workers; verify them all."""
        key_id = self.signer.key_id()
        digests = [hashlib.sha256(str(number).encode()).digest() for number in range(count)]
        with ThreadPoolExecutor(WORKERS) as pool:
            signatures = list(pool.map(lambda digest: self.signer.sign(digest, key_id=key_id), digests))
        assert len(set(signatures)) == count
        assert {len(signature) for signature in signatures} == {64}


def test_signing_more_than_a_burst_stays_within_the_vaults_limits(tmp_path, monkeypatch):
    limits = VaultLimits(reads=4, writes=4, unwraps=4, signatures=10)
    vault = Vault(tmp_path, "40/1", vault_rates(limits, instances=1), monkeypatch)
    try:
        with RecordedTelemetry() as recorded:
            vault.sign(30)
        assert recorded.count(telemetry.THROTTLED) == 0
        assert recorded.count(telemetry.RATE_WAIT, peer="vault", call="sign") > 0
    finally:
        vault.process.close()


def test_a_vault_that_throttles_all_the_same_is_waited_for_by_all_threads(tmp_path, monkeypatch):
    vault = Vault(tmp_path, "10/1", CallRates("vault"), monkeypatch)
    try:
        with RecordedTelemetry() as recorded:
            vault.sign(30)
        assert recorded.count(telemetry.THROTTLED, peer="vault", call="sign") > 0
    finally:
        vault.process.close()


def test_the_app_keeps_within_the_rates_of_its_settings(hub_process, tmp_path, monkeypatch):
    vault = VaultProcess(tmp_path)
    endpoint = IdentityEndpoint(vault.function_app)
    try:
        hub_process.kill()
        hub_process.start("--identity-public-key", str(tmp_path / "identity.pem"))
        trusted = tmp_path / "trusted.pem"
        trusted.write_bytes(vault.ca_file.read_bytes() + hub_process.ca_file.read_bytes())
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(trusted))
        for name, value in endpoint.environment.items():
            monkeypatch.setenv(name, value)
        settings = environment(
            Cloud(),
            tmp_path,
            EDB_KEY_VAULT_URL=vault.url,
            EDB_KEY_VAULT_VERIFY_CHALLENGE="false",
            EDB_IOT_HUB_HOSTNAME=f"{hub_process.address}:{hub_process.https_port}",
            EDB_IOT_HUB_TIER="S1",
            EDB_IOT_HUB_SHARE_PERCENT="1",
            EDB_KEY_VAULT_SHARE_PERCENT="1",
            EDB_MAX_INSTANCES="2000",
        )
        services = connect(Settings.from_environment(settings))
        with pytest.raises(NotFound):
            services.registry.read(DeviceId("edge-000"))
        with pytest.raises(BusyError, match="hub, twin_read"):
            services.registry.read(DeviceId("edge-000"))
        with pytest.raises(BusyError, match="vault, read"):  # the challenge took the one turn there is
            services.signer.key_id()
        with pytest.raises(BusyError, match="vault, read"):  # and it is the same one for secrets
            services.class_keys.states()
    finally:
        endpoint.close()
        vault.close()

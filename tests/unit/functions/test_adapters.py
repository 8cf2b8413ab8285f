"""The adapters' own sense: when they try again, how long they wait, what they translate errors into."""

from __future__ import annotations

import pytest
import requests
from azure.core.exceptions import HttpResponseError, ServiceRequestError
from azure.core.pipeline import Pipeline, PipelineResponse
from azure.core.rest import HttpRequest
from azure.iot.hub.models import Twin as HubTwin
from msrest.exceptions import ClientRequestError, HttpOperationError
from simulators.virtual_time import VirtualTime

from functions.adapters.expiring import Expiring
from functions.adapters.iot_hub import ATTEMPTS, HubTwinRegistry
from functions.adapters.key_vault import vault_errors
from functions.adapters.key_vault_entries import secret_name
from functions.adapters.vault_calls import VaultRatePolicy, VaultRetryPolicy, call_of
from functions.call_rates import CallRates, HubCall, VaultCall
from functions.deadline import within
from functions.token_bucket import BusyError
from shared.errors import Conflict, FormatError, KeyUnavailable, NotFound, TransportError
from shared.types import DeviceId, KeyName


def refusal(status: int, **headers: str) -> HttpOperationError:
    response = requests.Response()
    response.status_code = status
    response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return HttpOperationError(None, response)


class ScriptedHub:
    """The SDK's client as far as reading goes: raises what it was given, then answers."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def get_twin(self, device_id):
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return HubTwin(device_id=device_id, etag="AAE=", status="enabled")


def registry(hub):
    time = VirtualTime()
    rates = CallRates("hub", clock=time.clock, sleep=time.sleep)
    return HubTwinRegistry(lambda: hub, rates=rates, sleep=time.sleep), time.slept


class TestHub:
    def test_it_waits_as_long_as_the_hub_asks(self):
        adapter, waits = registry(ScriptedHub(refusal(429, Retry_After="7"), refusal(503, Retry_After="3")))
        assert adapter.read(DeviceId("edge-01")).status == "enabled"
        assert waits == [7.0, 3.0]

    def test_without_being_told_it_backs_off_longer_each_time(self):
        adapter, waits = registry(ScriptedHub(*[refusal(429) for _ in range(4)]))
        adapter.read(DeviceId("edge-01"))
        for attempt, wait in enumerate(waits, start=1):
            assert 0.5 * 2**attempt <= wait <= 2**attempt

    def test_it_never_waits_longer_than_a_minute(self):
        adapter, waits = registry(ScriptedHub(refusal(429, Retry_After="86400")))
        adapter.read(DeviceId("edge-01"))
        assert waits == [60.0]

    def test_it_gives_up_after_a_few_attempts(self):
        hub = ScriptedHub(*[ClientRequestError("no route") for _ in range(100)])
        adapter, _ = registry(hub)
        with pytest.raises(TransportError):
            adapter.read(DeviceId("edge-01"))
        assert hub.calls == ATTEMPTS

    @pytest.mark.parametrize(
        ("status", "kind"), [(404, NotFound), (412, Conflict), (400, FormatError), (413, FormatError)]
    )
    def test_what_trying_again_cannot_help_is_not_tried_again(self, status, kind):
        hub = ScriptedHub(refusal(status))
        adapter, waits = registry(hub)
        with pytest.raises(kind):
            adapter.read(DeviceId("edge-01"))
        assert (hub.calls, waits) == (1, [])

    def test_a_wait_that_the_function_has_no_time_for_is_not_begun(self):
        hub = ScriptedHub(refusal(503, Retry_After="30"))
        adapter, waits = registry(hub)
        with within(20), pytest.raises(TransportError) as caught:
            adapter.read(DeviceId("edge-01"))
        assert (hub.calls, waits, caught.value.retry_after) == (1, [], 30)

    def test_where_its_own_rate_leaves_no_time_the_hub_is_not_asked(self):
        time, hub = VirtualTime(), ScriptedHub()
        rates = CallRates("hub", {HubCall.READ: 0.01}, clock=time.clock, sleep=time.sleep)
        adapter = HubTwinRegistry(lambda: hub, rates=rates, sleep=time.sleep)
        adapter.read(DeviceId("edge-01"))
        with pytest.raises(BusyError):
            adapter.read(DeviceId("edge-01"))
        assert (hub.calls, time.slept) == (1, [])

    def test_a_hub_that_had_enough_of_one_thread_is_left_alone_by_all(self):
        time = VirtualTime()
        hub = ThrottlingHub(time, lets=20, retry_after=7)
        rates = CallRates(
            "hub", {HubCall.READ: 100}, bursts={HubCall.READ: 1}, clock=time.clock, sleep=time.sleep
        )
        adapter = HubTwinRegistry(lambda: hub, rates=rates, sleep=time.sleep)

        def work():
            for _ in range(4):
                adapter.read(DeviceId("edge-01"))

        time.run(*[work] * 16)
        assert (hub.answered, len(hub.refused)) == (64, 1)
        [refused_at] = hub.refused
        assert not [at for at in hub.asked if refused_at < at < refused_at + 7 - 1e-6]

    def test_updates_go_on_while_reads_are_held_back(self):
        time = VirtualTime()
        rates = CallRates("hub", clock=time.clock, sleep=time.sleep)
        rates.refused(HubCall.READ, 30)
        rates.take(HubCall.UPDATE)
        assert time.slept == []
        rates.take(HubCall.READ)
        assert time.slept == [30]


class ThrottlingHub:
    """Refuses the call after ``lets`` of them, once."""

    def __init__(self, time: VirtualTime, *, lets: int, retry_after: int) -> None:
        self.time, self.lets, self.retry_after = time, lets, retry_after
        self.asked: list[float] = []
        self.refused: list[float] = []

    @property
    def answered(self) -> int:
        return len(self.asked) - len(self.refused)

    def get_twin(self, device_id):
        self.asked.append(self.time.clock())
        if len(self.asked) == self.lets:
            self.refused.append(self.time.clock())
            raise refusal(429, Retry_After=str(self.retry_after))
        return HubTwin(device_id=device_id, etag="AAE=", status="enabled")


class ScriptedTransport:
    """A transport that answers with these statuses, one after the other."""

    def __init__(self, *statuses: int, **headers: str) -> None:
        self.statuses = list(statuses)
        self.headers = headers
        self.waits: list[float] = []

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def sleep(self, seconds):
        self.waits.append(seconds)

    def send(self, request, **_):
        response = requests.Response()
        response.status_code = self.statuses.pop(0)
        if response.status_code != 200:
            response.headers.update({name.replace("_", "-"): text for name, text in self.headers.items()})
        return response


UNWRAP = HttpRequest("POST", "https://vault.test/keys/k/1/unwrapkey?api-version=7.6")


class TestVault:
    def test_a_throttled_post_is_tried_again_though_the_vault_tells_no_time(self):
        transport = ScriptedTransport(429, 429, 200)
        pipeline: Pipeline = Pipeline(transport, policies=[VaultRetryPolicy()])
        answer: PipelineResponse = pipeline.run(UNWRAP)
        assert answer.http_response.status_code == 200
        assert transport.statuses == []

    def test_it_waits_as_long_as_the_vault_asks_and_never_longer_than_a_minute(self):
        for asked, waited in (("7", 7), ("86400", 60)):
            transport = ScriptedTransport(429, 503, 200, Retry_After=asked)
            Pipeline(transport, policies=[VaultRetryPolicy()]).run(UNWRAP)
            assert transport.waits == [waited] * 2

    def test_without_being_told_it_backs_off_longer_each_time(self):
        transport = ScriptedTransport(*[429] * 5, 200)
        Pipeline(transport, policies=[VaultRetryPolicy()]).run(UNWRAP)
        for attempt, wait in enumerate(transport.waits):
            assert 0.5 * 2**attempt <= wait <= 2**attempt

    def test_a_wait_that_the_function_has_no_time_for_is_not_begun(self):
        transport = ScriptedTransport(429, 200, Retry_After="30")
        with within(20), pytest.raises(TransportError) as caught:
            Pipeline(transport, policies=[VaultRetryPolicy()]).run(UNWRAP)
        assert (transport.waits, caught.value.retry_after) == ([], 30)

    def test_a_vault_that_had_enough_is_left_alone_by_all_its_clients(self):
        time = VirtualTime()
        rates = CallRates("vault", clock=time.clock, sleep=time.sleep)
        refused, other = ScriptedTransport(429, 200, Retry_After="7"), ScriptedTransport(200, 200)
        Pipeline(refused, policies=[VaultRetryPolicy(), VaultRatePolicy(rates)]).run(UNWRAP)
        assert (refused.waits, time.slept) == ([7], [7])  # the transport only notes the one
        rates.refused(VaultCall.UNWRAP, 5)
        Pipeline(other, policies=[VaultRetryPolicy(), VaultRatePolicy(rates)]).run(UNWRAP)
        assert time.slept == [7, 5]

    @pytest.mark.parametrize(
        ("method", "path", "call"),
        [
            ("GET", "/secrets", VaultCall.READ),
            ("GET", "/secrets/ck-sign/versions", VaultCall.READ),
            ("GET", "/keys/k/1", VaultCall.READ),
            ("PUT", "/secrets/ck-test", VaultCall.WRITE),
            ("PATCH", "/secrets/ck-test/1", VaultCall.WRITE),
            ("DELETE", "/secrets/ck-test", VaultCall.WRITE),
            ("POST", "/deletedsecrets/ck-test/recover", VaultCall.WRITE),
            ("POST", "/keys/k/1/unwrapkey", VaultCall.UNWRAP),
            ("POST", "/keys/k/1/sign", VaultCall.SIGN),
        ],
    )
    def test_every_request_counts_as_what_it_is(self, method, path, call):
        assert call_of(HttpRequest(method, f"https://vault.test{path}?api-version=7.6")) is call

    @pytest.mark.parametrize(("status", "kind"), [(403, KeyUnavailable), (500, TransportError)])
    def test_refusals_are_translated(self, status, kind):
        error = HttpResponseError("no")
        error.status_code = status
        with pytest.raises(kind), vault_errors("reading"):
            raise error

    def test_a_vault_out_of_reach_is_a_transport_error(self):
        with pytest.raises(TransportError), vault_errors("reading"):
            raise ServiceRequestError("no route")

    @pytest.mark.parametrize(
        ("name", "secret"),
        [
            ("test", "ck-test"),
            ("my-app", "ck-my-app"),
            ("my_confidential_app", "ck-my-confidential-app-d5b45890"),
            ("MY-APP", "ck-my-app-6eaef7ed"),
        ],
    )
    def test_secrets_are_named_as_the_protocol_says(self, name, secret):
        assert secret_name(KeyName(name)) == secret


class TestExpiring:
    def test_a_value_is_asked_for_again_when_its_time_is_over(self):
        clock, asked = [0.0], []

        def fetch():
            asked.append(clock[0])
            return len(asked)

        value = Expiring(fetch, seconds=10, monotonic=lambda: clock[0])
        found = []
        for clock[0] in (0.0, 9.9, 10.0, 19.9, 20.0):
            found.append(value.get())
        assert found == [1, 1, 2, 2, 3]

    def test_an_error_is_not_kept(self):
        answers = [TransportError("down"), 7]

        def fetch():
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        value = Expiring(fetch, seconds=10)
        with pytest.raises(TransportError):
            value.get()
        assert value.get() == 7

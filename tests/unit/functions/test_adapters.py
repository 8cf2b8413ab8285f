"""The adapters' own sense: when they try again, how long they wait, what they translate errors into."""

from __future__ import annotations

import pytest
import requests
from azure.core.exceptions import HttpResponseError, ServiceRequestError
from azure.core.pipeline import Pipeline, PipelineResponse
from azure.core.rest import HttpRequest
from azure.iot.hub.models import Twin as HubTwin
from msrest.exceptions import ClientRequestError, HttpOperationError

from functions.adapters.expiring import Expiring
from functions.adapters.iot_hub import ATTEMPTS, HubTwinRegistry
from functions.adapters.key_vault import VaultRetryPolicy, vault_errors
from functions.adapters.key_vault_entries import secret_name
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
    waits: list[float] = []
    return HubTwinRegistry(lambda: hub, sleep=waits.append), waits


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


class ScriptedTransport:
    """A transport that answers with these statuses, one after the other."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = list(statuses)
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
        return response


class TestVault:
    def test_a_throttled_post_is_tried_again_though_the_vault_tells_no_time(self):
        transport = ScriptedTransport(429, 429, 200)
        pipeline: Pipeline = Pipeline(transport, policies=[VaultRetryPolicy()])
        answer: PipelineResponse = pipeline.run(HttpRequest("POST", "https://vault.test/keys/k/1/unwrapkey"))
        assert answer.http_response.status_code == 200
        assert transport.statuses == []

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

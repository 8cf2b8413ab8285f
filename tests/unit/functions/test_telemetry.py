"""Traces and metrics: what arrives at a collector is what the guide lists, and holds no secret."""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from simulators.app import App
from simulators.build_machine import BuildMachine
from simulators.cloud import APP, Cloud
from simulators.otlp_collector import OtlpCollector, attributes_of
from simulators.virtual_time import VirtualTime

from functions import telemetry
from functions.adapters.key_vault import vault_errors
from functions.call_rates import CallRates, HubCall
from functions.telemetry import METRICS, Kind
from shared.errors import TransportError

ROOT = Path(__file__).parents[3]
GUIDE = (ROOT / "docs" / "guides" / "observability.md").read_text()
TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = f"00-{TRACE}-b7ad6b7169203331-01"
FUNCTION_KEY = "function-key-of-somebody-0123456789"
DATA = {Kind.COUNTER: "sum", Kind.HISTOGRAM: "histogram", Kind.GAUGE: "gauge"}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """A collector that heard of everything that the app does; and what must not have reached it."""
    with OtlpCollector() as collector, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        settings = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint}
        try:
            secrets = do_everything(App(Cloud(), tmp_path_factory.mktemp("app"), **settings))
        finally:
            telemetry.use(None)  # sends the rest
        yield collector, secrets


def do_everything(app):
    """Make every metric happen; return what must stay here."""
    cloud = app.cloud
    headers = {"x-functions-key": FUNCTION_KEY, "traceparent": PARENT}
    app.request("ProvisionKey", {"key_name": APP}, headers=headers, params={"code": FUNCTION_KEY})
    device = cloud.enrol("edge-01")
    cloud.enrol("edge-02", kind="rsa")
    cloud.registry.report("edge-02", {"device_cert": "AAAA"})
    app.drain()
    app.tick()
    app.drain()  # and now settled
    reported = {"properties": {"reported": {"device_public_key": "…"}}}
    app.events(({"deviceId": "edge-01", "opType": "updateTwin"}, reported))
    machine = BuildMachine(cloud.authority)
    body = machine.body()
    wrapped = [app.request("WrapKey", body, headers=headers).document["wrapped_key"] for _ in range(2)]
    app.request("WrapKey", machine.body(client_cert=None), headers=headers)
    app.request("WrapKey", b"{", headers=headers)
    cloud.segments.is_away = True
    app.request("WrapKey", body)
    cloud.segments.is_away = False
    good = app.policy_file.read_bytes()
    app.policy_file.write_bytes(b"{")
    cloud.wait(seconds=60)
    app.request("Policy", method="GET")
    app.policy_file.write_bytes(good)
    with vault_errors("reading the key encryption key"):
        pass
    time = VirtualTime()
    rates = CallRates("hub", clock=time.clock, sleep=time.sleep)
    rates.refused(HubCall.QUERY, 12)
    for _ in range(3):
        rates.take(HubCall.QUERY)
    keys = [cloud.class_keys.open(APP, 1).reveal()]
    public = [device.identity()["device_public_key"], body["client_public_key"], body["client_cert"]]
    return [
        FUNCTION_KEY.encode(),
        *keys,
        *(base64.b64encode(key) for key in keys),
        *(key.hex().encode() for key in keys),
        *(text.encode() for text in wrapped),
        *(text[:40].encode() for text in public),
    ]


@pytest.fixture
def collector(told):
    return told[0]


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_every_metric_arrives_as_the_catalogue_has_it(collector, metric):
    arrived = [each for each in collector.metrics if each.name == metric.name]
    assert arrived
    assert {(each.unit, each.description, each.WhichOneof("data")) for each in arrived} == {
        (metric.unit, metric.what, DATA[metric.kind])
    }
    for point in collector.points(metric.name):
        assert attributes_of(point).keys() == set(metric.attributes)


def test_nothing_arrives_that_is_not_in_the_catalogue(collector):
    assert {each.name for each in collector.metrics} == {metric.name for metric in METRICS}


def test_the_guide_lists_the_catalogue():
    rows = re.findall(
        r"^\| `(edb\.[a-z_.]+)` \| (\w+) \| `([^`]+)` \| ([^|]*) \| ([^|]*) \|$", GUIDE, re.MULTILINE
    )
    assert rows == [
        (
            metric.name,
            metric.kind.value,
            metric.unit,
            " ".join(f"`{name}`" for name in metric.attributes) or "—",
            metric.what,
        )
        for metric in METRICS
    ]


def test_what_is_counted_is_what_happened(collector):
    def latest(name, **attributes):
        matching = [point for point in collector.points(name) if attributes_of(point) == attributes]
        return matching[-1].as_int or matching[-1].as_double

    assert latest("edb.requests", contract="WrapKey", status="200") == 2
    assert latest("edb.requests", contract="WrapKey", status="403") == 1
    assert latest("edb.requests", contract="WrapKey", status="503") == 1
    assert latest("edb.denials", event="wrap", reason="certificate_missing") == 1
    assert latest("edb.wraps", event="wrap", algorithm="RSA-OAEP-256") == 2
    assert latest("edb.throttled", peer="hub", call="query") == 1
    assert latest("edb.wraps", event="distribute", algorithm="HPKE-X25519") == 1
    assert latest("edb.devices", outcome="written") == 1
    assert latest("edb.devices", outcome="denied") >= 1
    assert latest("edb.devices", outcome="settled") >= 1
    assert latest("edb.devices", outcome="unchanged") == 1
    assert latest("edb.key_cache", result="hit") >= 1
    assert latest("edb.audit.failures", event="wrap") == 1
    assert latest("edb.policy.faults", code="malformed") == 1
    assert latest("edb.policy.serial") >= 1


def test_no_secret_and_no_key_of_anybody_arrives(told):
    collector, secrets = told
    assert collector.bodies
    for body in collector.bodies:
        for secret in secrets:
            assert secret not in body


def test_the_trace_is_the_correlation(collector):
    requests = [span for span in collector.spans if span.name == "request ProvisionKey"]
    assert {(span.trace_id.hex(), span.parent_span_id.hex()) for span in requests} == {
        (TRACE, "b7ad6b7169203331")
    }
    # The pass that it asked for is part of the same trace, on whichever instance it runs.
    passes = [span for span in collector.spans if span.name == "pass" and span.trace_id.hex() == TRACE]
    assert passes
    devices = [span for span in collector.spans if span.parent_span_id == passes[0].span_id]
    assert {attributes_of(span)["device_id"] for span in devices} == {"edge-01", "edge-02"}
    for span in collector.spans:
        correlation = attributes_of(span).get("correlation_id", "")
        assert not re.fullmatch("[0-9a-f]{32}", correlation) or correlation == span.trace_id.hex()


def test_the_service_says_who_it_is(collector):
    assert {resource["service.name"] for resource in collector.resources} == {"edb-key-service"}


def test_a_span_of_what_failed_tells_the_code_and_not_the_message():
    with OtlpCollector() as collector, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint)
        telemetry.configure(os.environ)
        try:
            with pytest.raises(TransportError), telemetry.call("vault", "opening"):
                raise TransportError("the message names a secret", code="vault_unavailable")
        finally:
            telemetry.use(None)
    (span,) = collector.spans
    assert (span.status.message, list(span.events)) == ("vault_unavailable", [])
    assert [attributes_of(point) for point in collector.points("edb.call.duration")] == [
        {"peer": "vault", "outcome": "vault_unavailable"}
    ]
    assert not any(b"names a secret" in body for body in collector.bodies)


def test_without_a_place_to_tell_nothing_is_imported_and_work_goes_on():
    code = (
        "import sys; from functions import telemetry; telemetry.configure({});"
        "telemetry.add(telemetry.DEVICES, outcome='gone');"
        "\nwith telemetry.span('device', correlation_id='c') as told: told.tell('outcome', 'gone')"
        "\nsys.exit('opentelemetry' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert (result.returncode, result.stderr) == (0, "")


def test_azure_monitor_is_told_by_the_apps_identity():
    """The exporter is put together; that it reaches Azure cannot be shown without Azure."""
    code = (
        "from functions.adapters.open_telemetry import OpenTelemetry;"
        "OpenTelemetry.exporting(otlp=False, client_id='c', connection_string="
        "'InstrumentationKey=00000000-0000-0000-0000-000000000000;IngestionEndpoint=https://127.0.0.1:9/');"
        "import os; os._exit(0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "APPLICATIONINSIGHTS_STATSBEAT_DISABLED_ALL": "true"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("url", "contract"),
    [
        ("https://a/api/ProvisionKey/my_app?code=x", "ProvisionKey"),
        ("https://a/api/wrapkey", "WrapKey"),
        ("https://a/api/keys/my_app", "keys"),
        ("https://a/api/devices/edge-01/module", "devices"),
        ("https://a/api/anything", "other"),
        ("https://a/", "other"),
        ("", "other"),
    ],
)
def test_of_a_url_only_the_contract_is_told(url, contract):
    assert telemetry.contract_of(url) == contract


def test_host_and_app_tell_by_the_same_standard():
    host = json.loads((ROOT / "host.json").read_text())
    assert host["telemetryMode"] == "OpenTelemetry"
    assert "applicationInsights" not in host["logging"]

"""The word for how the agent is doing, the file that says it, and the metrics."""

import json
import re
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from device_agent.health import COUNTS, RULES, Health, HealthState, LastError, Tally, health_document
from device_agent.health_file import AT_LEAST_EVERY_SECONDS, AT_MOST_EVERY_SECONDS, HealthFile
from device_agent.metrics import MetricsEndpoint
from device_agent.settings import Metrics
from shared.errors import TransportError
from shared.types import DeviceId

GUIDE = Path(__file__).resolve().parents[3] / "docs" / "guides" / "device-agent.md"
GOOD = Health(
    device_id=DeviceId("edge-01"),
    at=1_800_000_000.0,
    started=1_799_999_000.0,
    hub_connected=True,
    hub_refuses=False,
    hub_dropped_us=False,
    cpm_known=True,
    cpm_judges=True,
    fingerprint=bytes(32),
    sequence=7,
    errors=0,
    certificate_not_after=1_900_000_000.0,
    certificate_matches=True,
    clock_plausible=True,
    in_step=True,
    counts=dict.fromkeys(COUNTS, 3),
)


@pytest.mark.parametrize(
    ("facts", "state"),
    [
        ({}, "in_step"),
        ({"in_step": False}, "catching_up"),
        ({"certificate_matches": False, "in_step": False}, "certificate_wrong"),
        ({"certificate_matches": None}, "in_step"),
        ({"errors": 1, "certificate_matches": False}, "release_refused"),
        ({"hub_connected": False, "errors": 1}, "hub_away"),
        ({"hub_dropped_us": True, "hub_connected": False}, "duplicate_identity"),
        ({"hub_dropped_us": True}, "duplicate_identity"),
        ({"hub_refuses": True, "hub_connected": False}, "hub_refuses"),
        ({"clock_plausible": False, "hub_connected": False, "hub_refuses": True}, "clock_wrong"),
        ({"clock_plausible": False}, "in_step"),
        ({"cpm_known": False, "hub_connected": False}, "cpm_away"),
    ],
)
def test_first_rule_that_holds_names_the_state(facts, state):
    assert replace(GOOD, **facts).state.value == state


def test_every_state_has_one_rule():
    assert [state for state, _ in RULES] == list(HealthState)


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def file(tmp_path, clock):
    return HealthFile(tmp_path / "health.json", clock)


def read(tmp_path):
    return json.loads((tmp_path / "health.json").read_text())


def test_file_says_the_state_and_can_be_read_by_others(file, tmp_path):
    error = LastError(code="unavailable", text="connecting: refused", at=1_799_999_999.0)

    file.show(replace(GOOD, hub_connected=False, last_error=error))

    document = read(tmp_path)
    assert document["state"] == "hub_away"
    assert document["last_error"] == {
        "code": "unavailable",
        "text": "connecting: refused",
        "at": "2027-01-15T07:59:59Z",
    }
    assert (tmp_path / "health.json").stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [tmp_path / "health.json"]


def test_file_is_written_on_a_change_and_otherwise_now_and_then(file, tmp_path, clock):
    file.show(GOOD)
    clock.now += AT_MOST_EVERY_SECONDS
    assert file.show(replace(GOOD, at=GOOD.at + 5)) is None
    assert read(tmp_path)["at"] == "2027-01-15T08:00:00Z"

    file.show(replace(GOOD, at=GOOD.at + 6, sequence=8))
    assert read(tmp_path)["cpm"]["sequence"] == 8

    clock.now += AT_LEAST_EVERY_SECONDS
    file.show(replace(GOOD, at=GOOD.at + 60, sequence=8))
    assert read(tmp_path)["at"] == "2027-01-15T08:01:00Z"


def test_changes_in_a_burst_are_written_once_a_second_and_the_last_is_not_lost(file, tmp_path, clock):
    file.show(GOOD)
    clock.now += 0.25

    again = file.show(replace(GOOD, sequence=8))

    assert read(tmp_path)["cpm"]["sequence"] == 7
    assert again == AT_MOST_EVERY_SECONDS - 0.25
    clock.now += again
    assert file.show(replace(GOOD, sequence=8)) is None
    assert read(tmp_path)["cpm"]["sequence"] == 8


def test_file_is_removed_at_the_end_and_a_folder_that_is_gone_is_told_once(file, tmp_path, clock, caplog):
    file.show(GOOD)
    file.remove()
    assert list(tmp_path.iterdir()) == []

    gone = HealthFile(tmp_path / "none" / "health.json", clock)
    for sequence in range(3):
        clock.now += 60
        gone.show(replace(GOOD, sequence=sequence))

    assert [record.getMessage() for record in caplog.records] == ["health_not_written"]


def test_last_error_is_kept_short():
    tally = Tally(clock=lambda: 5.0)

    tally.failed("code", "x" * 100_000)

    assert len(tally.last_error.text) == 200
    assert len(json.dumps(health_document(replace(GOOD, last_error=tally.last_error)))) < 4096


@pytest.fixture
def endpoint():
    endpoint = MetricsEndpoint(Metrics(address="127.0.0.1", port=0))
    yield endpoint
    endpoint.close()


def scrape(endpoint):
    with urllib.request.urlopen(f"http://127.0.0.1:{endpoint.port}/metrics", timeout=30) as answer:
        return answer.read().decode()


def test_metrics_tell_the_state_and_what_happened(endpoint):
    assert "device_agent" not in scrape(endpoint)

    endpoint.show(replace(GOOD, cpm_known=False))

    lines = scrape(endpoint).splitlines()
    assert 'device_agent_state{state="cpm_away"} 1.0' in lines
    assert 'device_agent_state{state="in_step"} 0.0' in lines
    assert "device_agent_cpm_known 0.0" in lines
    assert "device_agent_release_sequence 7.0" in lines
    assert 'device_agent_events_total{event="renewals"} 3.0' in lines
    assert "edge-01" not in "".join(lines)


def test_every_metric_stands_in_the_guide_and_no_other(endpoint):
    endpoint.show(GOOD)

    served = set(re.findall(r"^(device_agent_\w+)", scrape(endpoint), re.MULTILINE))

    documented = set(re.findall(r"^\| `(device_agent_\w+)`", GUIDE.read_text(), re.MULTILINE))
    assert served == documented
    events = set(re.findall(r'event="(\w+)"', scrape(endpoint)))
    assert events == set(COUNTS)
    assert all(f"`{event}`" in GUIDE.read_text() for event in events)


def test_port_that_is_taken_is_one_clear_error(endpoint):
    with pytest.raises(TransportError, match=f"port {endpoint.port}"):
        MetricsEndpoint(Metrics(address="127.0.0.1", port=endpoint.port))

"""edb and the audit log."""

import json
import signal
import subprocess
import threading
import time

import pytest
from simulators.edb_process import EDB, clean_environment, edb


@pytest.fixture
def audited(api):
    for number in range(5):
        api.record(event="wrap", outcome="denied" if number == 3 else "allowed", key_name=f"app_{number}")
    return api


def test_the_last_records_are_shown(audited, call):
    shown = call("audit", "tail", "-n", "2")
    lines = call("audit", "tail", "--after", "3", "--json").stdout.splitlines()

    assert [line.split()[:6] for line in shown.stdout.splitlines()[1:]] == [
        ["4", "2030-01-01T00:00:00.000000Z", "wrap", "denied", "function-key", "app_3"],
        ["5", "2030-01-01T00:00:00.000000Z", "wrap", "allowed", "function-key", "app_4"],
    ]
    assert [json.loads(line)["seq"] for line in lines] == [4, 5]


def test_a_release_is_shown_with_its_keys(api, call):
    released = {"version": 2, "algorithm": "RSA-OAEP-256", "rule": "gateways"}
    for keys in ({"app": released}, {f"app_{number}": released for number in range(5)}, "none at all"):
        api.record(event="distribute", outcome="allowed", device_id="edge-07", keys=keys)
    one, many, odd = call("audit", "tail", env={"COLUMNS": "200"}).stdout.splitlines()[1:]
    assert [one.split()[index] for index in (5, 6, 7, 8)] == ["app", "2", "edge-07", "gateways"]
    assert "app_0, app_1, app_2 and 2 more  2, 2, 2" in many
    assert "edge-07" in odd


def test_records_of_one_outcome_are_shown_alone(audited, call):
    audited.record(event="distribute", outcome="failed", device_id="edge-07", reason="vault_unavailable")
    audited.record(event="wrap", outcome="allowed")

    shown = call("audit", "tail", "-n", "1", "--outcome", "failed", "--json")

    assert shown.returncode == 0, shown.stderr
    [line] = shown.stdout.splitlines()
    assert json.loads(line)["record"]["device_id"] == "edge-07"


def test_following_shows_records_as_they_come(audited, call):
    process = subprocess.Popen(
        [EDB, "audit", "tail", "-n", "0", "--follow", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environment(**call.environment),
    )
    asked = len(audited.requests)
    deadline = time.monotonic() + 60
    while len(audited.requests) < asked + 3 and time.monotonic() < deadline:
        threading.Event().wait(0.02)
    audited.record(event="rotate", outcome="allowed")
    found = json.loads(process.stdout.readline())
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)

    assert found["record"]["event"] == "rotate"
    assert process.returncode == 0


def test_a_whole_chain_is_verified_and_its_head_is_an_anchor(audited, call):
    verified = call("audit", "verify", "--json")
    head = json.loads(verified.stdout)["head"]
    audited.record(event="rotate", outcome="allowed")
    again = call("audit", "verify", "--anchor", head)
    del audited.audit[3:]
    cut = call("audit", "verify", "--anchor", head)

    assert verified.returncode == 0, verified.stderr
    assert json.loads(verified.stdout)["records"] == 5
    assert again.returncode == 0
    assert cut.returncode == 3
    assert "the chain ends at 3" in cut.stderr


def test_a_changed_record_is_found_and_named(audited, call, tmp_path):
    audited.audit[2]["record"]["outcome"] = "denied"
    copy = tmp_path / "audit.jsonl"
    copy.write_text("".join(json.dumps(entry) + "\n" for entry in audited.audit))

    changed = call("audit", "verify", "--json")
    offline = edb("audit", "verify", copy)

    assert (changed.returncode, offline.returncode) == (3, 3)
    assert json.loads(changed.stdout)["result"] == "refused"
    assert "audit entry 3: " in offline.stderr

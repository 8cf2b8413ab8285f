"""edb and devices."""

import json

import pytest
from simulators.edb_process import on_terminal
from simulators.key_service_api import device


def test_devices_are_listed_and_filtered(api, call):
    api.devices = [
        device("edge-01", released=(11, {"app": 2}), reported=(11, {"app": 2})),
        device("edge-02", state="denied", reason="certificate_expired"),
        device("edge-03", state="denied", reason="claim_failed"),
        device("edge-04", released=(10, {"app": 1}), stale=True),
    ]

    listed = call("devices", "list")
    denied = call("devices", "list", "--state", "denied", "--reason", "certificate_expired", "--json")
    stale = call("devices", "list", "--key", "app", "--stale")

    words = [line.split() for line in listed.stdout.splitlines()]
    assert words[1] == ["edge-01", "released", "-", "app:2", "2030-01-01T00:00:00Z", "yes"]
    assert words[2] == ["edge-02", "denied", "certificate_expired", "-", "2030-01-01T00:00:00Z", "-"]
    assert [each["device_id"] for each in json.loads(denied.stdout)["devices"]] == ["edge-02"]
    assert [line.split()[0] for line in stale.stdout.splitlines()[1:]] == ["edge-04"]


def test_a_device_or_module_is_shown(api, call):
    api.devices = [
        device("edge-01/cpm", released=(11, {"app": 2}, {"app": 2}), reported=(11, {"app": "unwrap_failed"}))
    ]

    shown = call("devices", "show", "edge-01/cpm")

    assert shown.returncode == 0, shown.stderr
    words = [line.split() for line in shown.stdout.splitlines()]
    assert ["release", "11"] in words
    assert ["app", "2", "2", "1", "error", "unwrap_failed"] in words


BOUND, REPORTED = "b0" * 32, "0f" * 32


@pytest.fixture
def unbound(api):
    """A device that came back with another key."""
    api.devices = [
        device(
            "edge-01",
            state="denied",
            reason="key_not_bound",
            released=(11, {}),
            reported=(11, {}),
            keys=(BOUND, REPORTED),
        )
    ]
    return api


def bound_to(api):
    return api.devices[0]["released"]["fingerprint"]


def test_a_device_with_another_key_is_shown_with_both_and_what_to_do(unbound, call):
    shown = call("devices", "show", "edge-01")

    assert shown.returncode == 0, shown.stderr
    words = [line.split() for line in shown.stdout.splitlines()]
    assert ["bound", "to", "key", BOUND] in words
    assert ["reports", "key", REPORTED] in words
    assert "edb devices rebind edge-01 --key FINGERPRINT" in shown.stderr
    assert REPORTED not in shown.stderr


@pytest.mark.parametrize("spelled", [REPORTED, REPORTED.upper(), ":".join(["0F"] * 32)])
def test_a_device_is_bound_to_the_key_that_is_named(unbound, call, spelled):
    done = call("devices", "rebind", "edge-01", "--key", spelled, "--json")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["replaces"] == BOUND
    assert bound_to(unbound) == REPORTED
    again = call("devices", "rebind", "edge-01", "--key", spelled)
    assert again.stdout == "edge-01: is bound to that key already\n"


def test_another_key_than_the_device_reports_is_refused(unbound, call):
    done = call("devices", "rebind", "edge-01", "--key", "aa" * 32, "--json")

    assert done.returncode == 1
    assert json.loads(done.stdout)["code"] == "fingerprint_mismatch"
    assert bound_to(unbound) == BOUND


def test_without_a_terminal_the_key_has_to_be_named(unbound, call):
    unasked = call("devices", "rebind", "edge-01", stdin="y\n")
    malformed = call("devices", "rebind", "edge-01", "--key", "0f0f")

    assert (unasked.returncode, malformed.returncode) == (2, 2)
    assert f"reports now  {REPORTED}" in unasked.stderr
    assert "hint: --key says which key it is" in unasked.stderr
    assert "expected 64 hex digits" in malformed.stderr
    assert bound_to(unbound) == BOUND


@pytest.mark.parametrize(("answer", "status", "key"), [("n\n", 1, BOUND), ("y\n", 0, REPORTED)])
def test_on_a_terminal_both_keys_are_shown_and_it_is_asked(unbound, call, answer, status, key):
    ended, written = on_terminal("devices", "rebind", "edge-01", env=call.environment, answer=answer)

    assert ended == status, written
    assert f"bound to     {BOUND}" in written
    assert f"reports now  {REPORTED}" in written
    assert bound_to(unbound) == key


def test_a_device_that_reports_no_key_is_not_asked_about(unbound, call):
    unbound.devices[0]["reported_key"] = None
    done = call("devices", "rebind", "edge-01", "--json")

    assert done.returncode == 1
    assert json.loads(done.stdout)["code"] == "key_not_reported"


def test_many_devices_are_reconciled_as_many_at_once_as_the_service_takes(api, call):
    names = [f"edge-{number}" for number in range(101)]
    done = call("devices", "reconcile", *names)
    refused = call("devices", "reconcile", "a/b/c")

    assert (done.returncode, done.stdout) == (0, "101 on the queue\n")
    assert api.reconciled == [names[:100], names[100:]]
    assert refused.returncode == 1


def test_answers_that_break_the_contract_are_malformed(api, call):
    api.devices = [{"device_id": "edge-01", "released": [1]}]

    shown = call("devices", "list", "--json")

    assert shown.returncode == 1
    assert json.loads(shown.stdout)["result"] == "malformed"
    assert "released: expected dict, found list" in shown.stderr

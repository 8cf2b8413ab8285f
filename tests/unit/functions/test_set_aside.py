"""Messages that fail try after try: kept, with what they were about and why. Devices looked at on demand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from simulators.cloud import APP

from functions.distribution_messages import DEVICES_PER_PAGE, PageMessage, PassMessage
from functions.set_aside import MAX_TRIES
from shared.errors import TransportError
from shared.types import DeviceId
from shared.wire.values import MAX_DEVICES

HOST = json.loads((Path(__file__).parents[3] / "host.json").read_text())
PAGE = PageMessage(devices=[DeviceId("edge-00"), DeviceId("edge-01/agent")], attempt=2, correlation_id="c1")
PASS = PassMessage(cause="timer", correlation_id="c2", token="7")


@pytest.fixture
def fleet(app):
    app.cloud.class_keys.provision(APP, bits=256)
    for device_id in PAGE.devices:
        app.cloud.enrol(device_id)
    return app


@pytest.fixture
def down(fleet, monkeypatch):
    """The app whose vault is down."""

    def states():
        raise TransportError("the vault is down", code="vault_unavailable")

    monkeypatch.setattr(fleet.cloud.store, "states", states)
    return fleet


def test_it_counts_tries_as_the_host_does():
    assert HOST["extensions"]["queues"]["maxDequeueCount"] == MAX_TRIES


@pytest.mark.parametrize(("function", "message"), [("DistributeKeyPage", PAGE), ("DistributeKeyPass", PASS)])
def test_before_the_last_try_the_host_tries_again(down, function, message):
    for tries in range(1, MAX_TRIES):
        with pytest.raises(TransportError):
            down.message(function, message.encode(), tries=tries)
    assert not any(down.queues.values())


def test_after_the_last_try_the_devices_of_a_page_are_on_record_with_the_reason(down, audit, caplog):
    down.message("DistributeKeyPage", PAGE.encode(), tries=MAX_TRIES)
    [aside] = map(json.loads, down.queues["distribute-pages-poison"])
    assert (aside["devices"], aside["code"]) == (list(PAGE.devices), "vault_unavailable")
    down.drain()
    assert [
        (each["event"], each["outcome"], each["device_id"], each["reason"], each["correlation_id"])
        for each in audit()
    ] == [("distribute", "failed", device_id, "vault_unavailable", "c1") for device_id in PAGE.devices]
    [told] = [record for record in caplog.records if record.message == "message_set_aside"]
    assert (told.levelname, told.queue, told.code, told.devices, told.first) == (
        "ERROR",
        "distribute-pages-poison",
        "vault_unavailable",
        2,
        "edge-00",
    )


def test_a_pass_is_on_record_with_what_asked_for_it(down, audit):
    down.message("DistributeKeyPass", PASS.encode(), tries=MAX_TRIES)
    down.drain()
    [record] = audit()
    assert (record["outcome"], record["device_id"], record["reason"]) == ("failed", None, "vault_unavailable")
    assert record["detail"] == "set aside after 5 tries: the pass that was asked for by timer"


def test_what_the_host_set_aside_after_a_crash_is_on_record_without_a_reason(fleet, audit):
    fleet.message("DistributeKeyPagePoison", PAGE.encode())
    fleet.message("DistributeKeyPassPoison", PASS.encode())
    assert [(each["device_id"], each["reason"]) for each in audit()] == [
        ("edge-00", "internal"),
        ("edge-01/agent", "internal"),
        (None, "internal"),
    ]


@pytest.mark.parametrize("function", ["DistributeKeyPagePoison", "DistributeKeyPassPoison"])
@pytest.mark.parametrize("text", ["", "[]", '{"devices": "all"}', "\x1b[2J" + "x" * 9000])
def test_a_message_that_is_none_of_ours_is_on_record_as_far_as_it_fits(app, audit, function, text):
    app.message(function, text)
    [record] = audit()
    assert (record["outcome"], record["reason"]) == ("failed", "malformed")
    assert "bytes that begin with" in record["detail"]
    assert record["detail"].isprintable()


def test_a_page_without_devices_is_told_of_and_records_nothing(app, audit, caplog):
    empty = PageMessage(devices=[], attempt=1, correlation_id="c")
    app.message("DistributeKeyPagePoison", empty.encode())
    assert audit() == []
    assert "message_set_aside" in {record.message for record in caplog.records}


def test_while_the_chain_takes_no_record_the_message_stays(fleet):
    fleet.cloud.segments.is_away = True
    with pytest.raises(TransportError, match="audit"):
        fleet.message("DistributeKeyPagePoison", PAGE.encode())


def test_what_was_set_aside_is_taken_up_by_the_next_pass(fleet, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(fleet.cloud.store, "states", lambda: (_ for _ in ()).throw(TransportError("down")))
        fleet.message("DistributeKeyPage", PAGE.encode(), tries=MAX_TRIES)
        fleet.drain()
    fleet.tick()
    fleet.drain()
    assert {fleet.cloud.tag(device_id)["state"] for device_id in PAGE.devices} == {"released"}


class TestReconcileDevices:
    def test_devices_and_modules_are_looked_at_at_once(self, fleet, audit):
        reply = fleet.request(
            "ReconcileDevices", {"device_ids": ["edge-00", "edge-01/agent", "edge-00", "nobody"]}
        )
        assert (reply.status, reply.document) == (200, {"devices": 3})
        record = audit()[-1]
        assert (record["event"], record["outcome"], record["caller"], record["detail"]) == (
            "reconcile",
            "allowed",
            "function-key",
            "3 devices",
        )
        fleet.drain()
        assert {fleet.cloud.tag(device_id)["state"] for device_id in PAGE.devices} == {"released"}

    def test_one_device_is_named_in_the_record(self, fleet, audit):
        fleet.request("ReconcileDevices", {"device_ids": ["edge-00"]})
        assert audit()[-1]["device_id"] == "edge-00"

    @pytest.mark.parametrize(
        ("device_ids", "where"),
        [
            (None, "/device_ids"),
            ([], "/device_ids"),
            ("edge-00", "/device_ids"),
            (["edge-00", 7], "/device_ids/1"),
            (["a/b/c"], "/device_ids/0"),
            ([f"edge-{number}" for number in range(MAX_DEVICES + 1)], "/device_ids"),
        ],
    )
    def test_what_names_no_devices_is_refused(self, app, device_ids, where):
        reply = app.request("ReconcileDevices", {"device_ids": device_ids})
        assert (reply.status, reply.document["code"]) == (400, "invalid_request")
        assert reply.document["errors"][0]["detail"].startswith(f"{where}: expected")
        assert app.queues["distribute-pages"] == []

    def test_without_the_record_nothing_is_put_on_the_queue(self, fleet):
        fleet.cloud.segments.is_away = True
        reply = fleet.request("ReconcileDevices", {"device_ids": ["edge-00"]})
        assert (reply.status, reply.document["code"]) == (503, "audit_unavailable")
        assert fleet.queues["distribute-pages"] == []

    def test_as_many_as_may_be_named_fit_into_one_message(self):
        assert MAX_DEVICES <= DEVICES_PER_PAGE

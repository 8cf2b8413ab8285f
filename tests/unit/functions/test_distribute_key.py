"""DistributeKey: what starts it, how it is spread, and that one device's failure stays its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from simulators.app import App
from simulators.cloud import APP, Cloud
from simulators.fleet import Authority, Device
from simulators.registry import MemoryRegistry

from functions import deadline, distribute_key
from functions.adapters.iot_hub import CALL_SECONDS
from functions.token_bucket import BusyError
from shared.errors import Conflict, TransportError
from shared.types import DeviceId


def updated(device_id: str, body, *, op="updateTwin", module=None):
    properties = {"hubName": "hub", "deviceId": device_id, "opType": op}
    if module is not None:
        properties["moduleId"] = module
    return properties, body


REPORTED = {"version": 7, "properties": {"reported": {"device_public_key": "…", "$version": 3}}}


@pytest.fixture
def fleet(app):
    app.cloud.class_keys.provision(APP, bits=256)
    for number in range(3):
        app.cloud.enrol(f"edge-{number:02}")
    return app


def states(app) -> dict[str, str | None]:
    tags = {f"edge-{n:02}": app.cloud.tag(f"edge-{n:02}") for n in range(3)}
    return {device: tag and tag["state"] for device, tag in tags.items()}


class TestWhatStartsIt:
    def test_the_timer_lists_the_fleet_onto_the_queue_and_pages_release_it(self, fleet):
        fleet.tick()
        assert len(fleet.queues["distribute-pages"]) == 1
        fleet.drain()
        assert set(states(fleet).values()) == {"released"}

    def test_provisioning_leads_to_a_pass(self, app):
        app.cloud.enrol("edge-00")
        app.request("ProvisionKey", {"key_name": APP})
        app.drain()
        assert app.cloud.tag("edge-00")["state"] == "released"

    def test_revocation_takes_the_version_away_from_devices(self, fleet):
        fleet.tick()
        fleet.drain()
        fleet.request("RevokeKey", {"key_name": APP, "version": 1})
        fleet.drain()
        assert fleet.cloud.wrapped("edge-00") == {}

    @pytest.mark.parametrize(
        ("event_type", "subject", "passes"),
        [
            ("Microsoft.KeyVault.SecretNewVersionCreated", "ck-my-app", 1),
            ("Microsoft.KeyVault.SecretExpired", "ck-my-app", 1),
            ("Microsoft.KeyVault.SecretNewVersionCreated", "database-password", 0),
            ("Microsoft.KeyVault.KeyNewVersionCreated", "ck-my-app", 0),
            ("Microsoft.Storage.BlobCreated", "ck-my-app", 0),
        ],
    )
    def test_an_event_of_the_vault_leads_to_a_pass_if_it_is_about_a_class_key(
        self, fleet, event_type, subject, passes
    ):
        fleet.vault_event(event_type, subject)
        assert len(fleet.queues["distribute-passes"]) == passes

    def test_an_empty_fleet_puts_nothing_on_the_queue(self, app):
        app.tick()
        assert app.queues["distribute-pages"] == []

    def test_a_large_fleet_is_cut_into_pages_that_fit_a_queue_message(self, tmp_path):
        cloud = Cloud()
        app = App(cloud, tmp_path)
        for number in range(250):
            name = f"{'d' * 124}{number:03}/{'m' * 128}"
            cloud.registry.enrol(name)
            cloud.registry.report(name, {"device_public_key": "AAAA"})
        app.tick()
        pages = [json.loads(text) for text in app.queues["distribute-pages"]]
        assert [len(page["devices"]) for page in pages] == [100, 100, 50]
        assert max(len(text.encode()) for text in app.queues["distribute-pages"]) < 48 * 1024

    def test_a_pass_that_takes_too_long_goes_on_with_another_message(self, tmp_path, monkeypatch):
        monkeypatch.setattr(distribute_key, "PASS_SECONDS", 0.0)
        cloud = Cloud()
        cloud.registry = MemoryRegistry(page_size=2)
        cloud.class_keys.provision(APP, bits=256)
        for number in range(5):
            cloud.enrol(f"edge-{number:02}")
        app = App(cloud, tmp_path)
        app.request("RotateKey", {"key_name": APP})
        app.message("DistributeKeyPass", app.queues["distribute-passes"].pop())
        [rest] = [json.loads(text) for text in app.queues["distribute-passes"]]
        assert rest["token"] == "2"
        assert rest["cause"] == "rotate"
        app.drain()
        assert {cloud.tag(f"edge-{number:02}")["state"] for number in range(5)} == {"released"}

    def test_a_second_pass_reads_no_twin_of_a_settled_device(self, fleet):
        fleet.tick()
        fleet.drain()
        fleet.cloud.registry.faults["read"] = [AssertionError("nobody should read a twin")]
        fleet.tick()
        assert fleet.queues["distribute-pages"] == []


class TestTwinEvents:
    def test_a_device_that_reports_its_key_is_served_at_once(self, fleet):
        fleet.events(updated("edge-01", REPORTED))
        assert states(fleet) == {"edge-00": None, "edge-01": "released", "edge-02": None}

    def test_a_module_is_found_under_its_device(self, fleet):
        fleet.cloud.enrol("edge-00/agent")
        fleet.events(updated("edge-00", REPORTED, module="agent"))
        assert fleet.cloud.tag("edge-00/agent")["state"] == "released"

    @pytest.mark.parametrize(
        "body",
        [
            {"tags": {"confidential_packages": {"state": "released"}}},
            {"properties": {"desired": {"confidential_package_keys": {}}}},
            {
                "tags": {"confidential_packages": {"state": "released"}},
                "properties": {"desired": {"confidential_package_keys": {}}},
            },
            {"properties": {"reported": {"temperature": 20}}},
            [],
        ],
    )
    def test_our_own_writes_and_what_is_no_concern_of_ours_are_not_looked_at(self, fleet, body):
        fleet.cloud.registry.faults["read"] = [AssertionError("nobody should read a twin")]
        fleet.events(updated("edge-01", body))
        assert len(fleet.cloud.registry.faults["read"]) == 1

    @pytest.mark.parametrize(
        "body",
        [
            {"tags": {"class": "gateway"}},
            {"properties": {"reported": {"confidential_package_status": {"seq": 1}}}},
            {"properties": {"reported": {"device_cert": None}}},
        ],
    )
    def test_tags_and_reports_that_matter_are_looked_at(self, fleet, body):
        fleet.events(updated("edge-01", body))
        assert fleet.cloud.tag("edge-01")["state"] == "released"

    def test_events_that_cannot_be_read_do_not_stop_the_others(self, fleet):
        fleet.events(
            updated("edge-00", b"{"),
            updated("no such id\n", REPORTED),
            updated("edge-01", REPORTED, op="deleteDeviceIdentity"),
            updated("edge-02", REPORTED),
            updated("edge-02", REPORTED),
        )
        assert states(fleet) == {"edge-00": None, "edge-01": None, "edge-02": "released"}
        assert len(fleet.cloud.registry.writes) == 1

    def test_what_fails_now_is_put_on_the_queue(self, fleet):
        fleet.cloud.registry.faults["read"] = [TransportError("hub is down")]
        fleet.events(updated("edge-01", REPORTED))
        assert fleet.cloud.tag("edge-01") is None
        fleet.drain()
        assert fleet.cloud.tag("edge-01")["state"] == "released"

    def test_a_vault_that_is_down_postpones_the_whole_batch(self, fleet, monkeypatch):
        def down():
            raise TransportError("vault is down")

        with monkeypatch.context() as patch:
            patch.setattr(fleet.cloud.store, "states", down)
            fleet.events(updated("edge-01", REPORTED), updated("edge-02", REPORTED))
        fleet.drain()
        assert states(fleet) == {"edge-00": None, "edge-01": "released", "edge-02": "released"}


class TestIsolation:
    def test_only_the_devices_that_failed_are_put_back(self, fleet):
        fleet.tick()
        fleet.cloud.registry.faults["patch"] = [TransportError("the hub throttles")]
        fleet.message("DistributeKeyPage", fleet.queues["distribute-pages"].pop())
        assert list(states(fleet).values()) == [None, "released", "released"]
        [page] = [json.loads(text) for text in fleet.queues["distribute-pages"]]
        assert (page["devices"], page["attempt"]) == (["edge-00"], 2)
        fleet.drain()
        assert set(states(fleet).values()) == {"released"}

    def test_a_device_that_keeps_failing_is_given_up_until_the_next_pass(self, fleet, caplog):
        fleet.tick()
        fleet.cloud.registry.faults["patch"] = [TransportError("down")] * 100
        fleet.drain()
        assert len(fleet.cloud.registry.faults["patch"]) == 100 - 9
        assert "distribute_given_up" in {record.message for record in caplog.records}

    def test_a_twin_that_brings_a_defect_to_light_keeps_no_other_from_its_keys(self, fleet, caplog):
        fleet.tick()
        fleet.cloud.registry.faults["read"] = [RecursionError("too deep")]
        fleet.message("DistributeKeyPage", fleet.queues["distribute-pages"].pop())
        assert list(states(fleet).values()) == [None, "released", "released"]
        [page] = [json.loads(text) for text in fleet.queues["distribute-pages"]]
        assert page["devices"] == ["edge-00"]
        [told] = [record for record in caplog.records if record.message == "distribute_defect"]
        assert (told.device_id, told.code) == ("edge-00", "RecursionError")

    def test_a_device_that_is_gone_is_dropped(self, fleet):
        fleet.tick()
        fleet.cloud.registry.delete("edge-00")
        fleet.drain()
        assert fleet.cloud.tag("edge-01")["state"] == "released"
        assert fleet.queues["distribute-pages"] == []

    def test_a_class_key_that_does_not_open_leaves_devices_as_they_are(self, fleet):
        fleet.tick()
        fleet.drain()
        before = fleet.cloud.registry.snapshot("edge-00")
        fleet.cloud.class_keys.provision("broken", bits=256)
        fleet.cloud.store.envelopes["broken"][1] = "not.a.jwe"
        fleet.tick()
        fleet.drain()
        assert fleet.cloud.registry.snapshot("edge-00") == before

    def test_who_changed_the_twin_in_between_wins_and_the_step_begins_again(self, fleet):
        conflict = Conflict("the twin changed", code="twin_conflict")
        fleet.cloud.registry.faults["patch"] = [conflict] * 3
        assert fleet.cloud.run("edge-00") == []
        assert fleet.cloud.tag("edge-00")["state"] == "released"

    def test_a_fourth_conflict_is_a_failure(self, fleet):
        conflict = Conflict("the twin changed", code="twin_conflict")
        fleet.cloud.registry.faults["patch"] = [conflict] * 4
        assert fleet.cloud.run("edge-00") == [DeviceId("edge-00")]


class TestTime:
    def test_what_a_page_did_not_get_to_is_put_back_and_does_not_count_as_an_attempt(
        self, fleet, monkeypatch
    ):
        fleet.tick()
        text = fleet.queues["distribute-pages"].pop()
        with monkeypatch.context() as patch:
            patch.setattr(distribute_key, "WORK_SECONDS", 3600)
            time_is_up_after(fleet, device_steps=1, patch=patch)
            fleet.message("DistributeKeyPage", text)
        assert list(states(fleet).values()) == ["released", None, None]
        [page] = [json.loads(text) for text in fleet.queues["distribute-pages"]]
        assert (page["devices"], page["attempt"]) == (["edge-01", "edge-02"], 1)
        fleet.drain()
        assert set(states(fleet).values()) == {"released"}

    def test_a_page_of_which_nothing_is_done_in_time_counts_as_an_attempt(self, fleet, monkeypatch):
        fleet.tick()
        text = fleet.queues["distribute-pages"].pop()
        with monkeypatch.context() as patch:
            patch.setattr(distribute_key, "WORK_SECONDS", 0)
            fleet.message("DistributeKeyPage", text)
        [page] = [json.loads(text) for text in fleet.queues["distribute-pages"]]
        assert (len(page["devices"]), page["attempt"]) == (3, 2)

    def test_events_that_there_was_no_time_for_are_put_on_the_queue(self, fleet, monkeypatch):
        with monkeypatch.context() as patch:
            patch.setattr(distribute_key, "WORK_SECONDS", 0)
            fleet.events(updated("edge-01", REPORTED), updated("edge-02", REPORTED))
        fleet.drain()
        assert states(fleet) == {"edge-00": None, "edge-01": "released", "edge-02": "released"}

    def test_a_pass_that_is_interrupted_keeps_what_it_found_and_goes_on_from_there(self, fleet, monkeypatch):
        registry = fleet.cloud.registry
        monkeypatch.setattr(registry, "_page_size", 2)
        listed, rows = [], registry.rows

        def busy_at_the_second_page(*, token):
            listed.append(token)
            if len(listed) == 2:
                raise BusyError("hub, query: the next call may go in 90 s")
            return rows(token=token)

        monkeypatch.setattr(registry, "rows", busy_at_the_second_page)
        fleet.tick()
        assert listed == [None, "2", "2"]
        fleet.drain()
        assert set(states(fleet).values()) == {"released"}

    def test_a_message_is_worked_on_for_less_long_than_the_host_lets_it(self):
        host = json.loads((Path(__file__).parents[3] / "host.json").read_text())
        hours, minutes, seconds = map(int, host["functionTimeout"].split(":"))
        limit = hours * 3600 + minutes * 60 + seconds
        assert distribute_key.PASS_SECONDS <= distribute_key.WORK_SECONDS
        assert limit > distribute_key.WORK_SECONDS + 2 * CALL_SECONDS


def time_is_up_after(fleet, *, device_steps, patch):
    """Let the time of whatever runs be over after so many twins were read."""
    registry = fleet.cloud.registry
    read, reads = registry.read, []

    def counted(device_id):
        reads.append(device_id)
        return read(device_id)

    patch.setattr(registry, "read", counted)
    patch.setattr(deadline, "remaining", lambda: 0.0 if len(reads) > device_steps else 60.0)


class TestAudit:
    def test_a_release_is_recorded_with_all_its_keys_and_quiet_passes_record_nothing(self, fleet, audit):
        fleet.cloud.class_keys.provision("second", bits=256)
        fleet.tick()
        fleet.drain()
        records = [record for record in audit() if record["event"] == "distribute"]
        assert [record["device_id"] for record in records] == ["edge-00", "edge-01", "edge-02"]
        released = {"version": 1, "algorithm": "HPKE-X25519", "rule": "gateways"}
        for record in records:
            assert (record["outcome"], record["keys"]) == ("allowed", {APP: released, "second": released})
        assert {record["policy_sha256"] for record in records} == {fleet.cloud.policy.digest.hex()}
        fleet.tick()
        fleet.drain()
        assert len([record for record in audit() if record["event"] == "distribute"]) == 3

    def test_a_denial_is_recorded_with_its_reason(self, app, audit):
        app.cloud.class_keys.provision(APP, bits=256)
        rogue = Device.make(Authority("rogue CA"), "rogue-01")
        app.cloud.registry.enrol("rogue-01", tags={"class": "gateway"})
        app.cloud.registry.report("rogue-01", rogue.report())
        app.tick()
        app.drain()
        [record] = audit()
        assert (record["device_id"], record["outcome"], record["reason"]) == (
            "rogue-01",
            "denied",
            "certificate_untrusted",
        )
        assert record["keys"] is None


class TestDevices:
    def test_it_tells_what_was_released_acknowledged_and_refused(self, fleet):
        rogue = Device.make(Authority("rogue CA"), "rogue-01")
        fleet.cloud.registry.enrol("rogue-01", tags={"class": "gateway"})
        fleet.cloud.registry.report("rogue-01", rogue.report())
        fleet.tick()
        fleet.drain()
        told = {
            each["device_id"]: each for each in fleet.request("Devices", method="GET").document["devices"]
        }
        assert told["edge-00"]["state"] == "released"
        assert told["edge-00"]["released"]["keys"] == {APP: 1}
        assert told["rogue-01"]["reason"] == "certificate_untrusted"
        assert told["rogue-01"]["released"] is None

    def test_it_comes_in_pages(self, fleet):
        fleet.tick()
        fleet.drain()
        found, token = [], None
        while True:
            params = {"page_size": "2"} if token is None else {"page_size": "2", "token": token}
            document = fleet.request("Devices", method="GET", params=params).document
            found += [each["device_id"] for each in document["devices"]]
            token = document.get("next_token")
            if token is None:
                break
        assert found == ["edge-00", "edge-01", "edge-02"]

    @pytest.mark.parametrize(
        "params", [{"page_size": "0"}, {"page_size": "x"}, {"page_size": "9999"}, {"token": "x"}]
    )
    def test_a_bad_page_is_a_bad_request(self, fleet, params):
        assert fleet.request("Devices", method="GET", params=params).status == 400

    def test_a_release_without_an_answer_is_stale_after_a_day(self, fleet):
        fleet.tick()
        fleet.drain()
        route = {"device_id": "edge-00"}
        assert fleet.request("Device", method="GET", route=route).document["stale"] is False
        fleet.cloud.wait(hours=25)
        assert fleet.request("Device", method="GET", route=route).document["stale"] is True

    def test_an_unknown_device_is_not_found(self, fleet):
        reply = fleet.request("Device", method="GET", route={"device_id": "nobody"})
        assert (reply.status, reply.document["code"]) == (404, "device_not_found")


@pytest.mark.parametrize("text", ["", "[]", '{"devices": "all"}', '{"devices": [], "attempt": 0}'])
def test_a_message_that_is_none_of_ours_fails_and_so_reaches_the_poison_queue(app, text):
    with pytest.raises(Exception, match=r"queue message"):
        app.message("DistributeKeyPage", text)

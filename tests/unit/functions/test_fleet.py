"""Keys and Devices: what is told of them, page by page, to whom asks oddly, too."""

from __future__ import annotations

import datetime as dt

import pytest
from simulators.app import App
from simulators.cloud import APP
from simulators.fleet import Authority, Device

from shared.keys.store import VersionState
from shared.wire.fleet import VERSION_STATES


def pages(app, name, **params):
    """Return all pages, following the tokens."""
    found, token = [], None
    while True:
        given = params if token is None else {**params, "token": token}
        document = app.request(name, method="GET", params=given).document
        found.append(document["keys" if name == "Keys" else "devices"])
        token = document.get("next_token")
        if token is None:
            return found


class TestKeys:
    @pytest.fixture
    def keys(self, app):
        for name in ("b", "a_1", "a-2", "C", "a"):
            app.cloud.class_keys.provision(name, bits=128)
        return app

    def test_pages_follow_each_other_in_the_order_of_names(self, keys):
        told = [[key["key_name"] for key in page] for page in pages(keys, "Keys", page_size="2")]
        assert told == [["C", "a"], ["a-2", "a_1"], ["b"]]

    def test_a_full_last_page_has_no_next_one(self, keys):
        assert [len(page) for page in pages(keys, "Keys", page_size="5")] == [5]

    def test_a_prefix_is_kept_over_pages(self, keys):
        told = [[key["key_name"] for key in page] for page in pages(keys, "Keys", page_size="2", prefix="a")]
        assert told == [["a", "a-2"], ["a_1"]]
        assert pages(keys, "Keys", prefix="x") == [[]]

    def test_a_key_that_is_deleted_or_made_between_pages_disturbs_no_other(self, keys):
        first = keys.request("Keys", method="GET", params={"page_size": "2"}).document
        del keys.cloud.store.envelopes["a"]
        keys.cloud.class_keys.provision("B", bits=128)
        following = keys.request("Keys", method="GET", params={"token": first["next_token"]}).document
        assert [key["key_name"] for key in following["keys"]] == ["a-2", "a_1", "b"]

    def test_versions_tell_what_is_revoked(self, app):
        app.cloud.class_keys.provision(APP, bits=256)
        app.cloud.class_keys.rotate(APP)
        app.cloud.class_keys.rotate(APP)
        app.cloud.class_keys.revoke(APP, 2)
        told = app.request("Key", method="GET", route={"key_name": APP}).document
        assert [(each["version"], each["state"]) for each in told["versions"]] == [
            (1, "revoked"),
            (2, "revoked"),
            (3, "active"),
        ]
        assert {each["created_at"] for each in told["versions"]} == {"2030-05-17T12:00:00Z"}

    def test_every_state_of_a_version_can_be_told(self, cloud, tmp_path):
        app = App(cloud, tmp_path, EDB_CLASS_KEY_DAYS="1")
        app.request("ProvisionKey", {"key_name": APP})
        for _ in range(4):
            app.request("RotateKey", {"key_name": APP})
        cloud.wait(days=1)
        app.request("RotateKey", {"key_name": APP})
        app.request("RotateKey", {"key_name": APP})
        app.request("RotateKey", {"key_name": APP, "rollout": {"stages": [100, 10_000]}})
        aborted = {"key_name": APP, "version": 8, "stage": 0, "action": "abort"}
        app.request("ChangeRollout", aborted)
        cloud.store.disabled |= {(APP, 3), (APP, 1)}
        cloud.store.not_before[APP, 7] = cloud.at + dt.timedelta(hours=1)
        app.request("RevokeKey", {"key_name": APP, "version": 2})
        versions = app.request("Key", method="GET", route={"key_name": APP}).document["versions"]
        states = {each["version"]: each["state"] for each in versions}
        assert states == {
            1: "revoked",
            2: "revoked",
            3: "disabled",
            4: "expired",
            5: "expired",
            6: "active",
            7: "not_yet_valid",
            8: "aborted",
        }
        assert set(states.values()) == set(VERSION_STATES) == {state.value for state in VersionState}
        assert versions[0]["expires_at"] == "2030-05-18T12:00:00Z"

    def test_a_long_history_is_told_by_its_newest_part(self, app):
        app.cloud.class_keys.provision(APP, bits=256)
        for version in range(2, 151):
            app.cloud.store.add_version(APP, "an envelope", version=version, algorithm="aes-gcm-256")
        told = app.request("Key", method="GET", route={"key_name": APP}).document
        assert [each["version"] for each in told["versions"]] == list(range(51, 151))

    @pytest.mark.parametrize("name", ["", "a/b", "-a", "x" * 65, "ä", None])
    def test_a_route_that_names_no_key_is_refused(self, app, name):
        reply = app.request("Key", method="GET", route={"key_name": name})
        assert (reply.status, reply.document["code"]) == (400, "name_invalid")


@pytest.mark.parametrize("operation", ["Keys", "Devices"])
class TestHostileQueries:
    @pytest.mark.parametrize(
        ("params", "parameters"),
        [
            ({"page_size": "0"}, ["page_size"]),
            ({"page_size": "1001"}, ["page_size"]),
            ({"page_size": "٣"}, ["page_size"]),
            ({"page_size": "1" * 5000}, ["page_size"]),
            ({"page_size": "-1", "token": "a b"}, ["page_size", "token"]),
            ({"token": ""}, ["token"]),
            ({"token": "a\r\nx-ms-max-item-count: 1"}, ["token"]),
            ({"token": "x" * 4097}, ["token"]),
        ],
    )
    def test_all_faults_are_told_by_their_parameters(self, app, operation, params, parameters):
        reply = app.request(operation, method="GET", params=params)
        assert (reply.status, reply.document["code"]) == (400, "invalid_request")
        assert [fault["parameter"] for fault in reply.document["errors"]] == parameters

    @pytest.mark.parametrize("token", ["../../etc", "-", "devices;", "x" * 4096, "a;b"])
    def test_a_token_that_no_page_told_is_refused(self, app, operation, token):
        reply = app.request(operation, method="GET", params={"token": token})
        assert (reply.status, reply.document["code"]) == (400, "token_invalid")

    def test_unknown_parameters_are_ignored(self, app, operation):
        assert app.request(operation, method="GET", params={"code": "k", "x": "y"}).status == 200


class TestDevices:
    @pytest.fixture
    def fleet(self, app):
        app.cloud.class_keys.provision(APP, bits=256)
        for number in range(3):
            app.cloud.enrol(f"edge-0{number}")
        app.cloud.registry.enrol("rogue-01", tags={"class": "gateway"})
        app.cloud.registry.report("rogue-01", Device.make(Authority("rogue CA"), "rogue-01").report())
        app.tick()
        app.drain()
        return app

    @pytest.mark.parametrize(
        ("filters", "found"),
        [
            ({"state": "released"}, ["edge-00", "edge-01", "edge-02"]),
            ({"state": "denied"}, ["rogue-01"]),
            ({"reason": "certificate_untrusted"}, ["rogue-01"]),
            ({"state": "released", "reason": "certificate_untrusted"}, []),
            ({"key": APP}, ["edge-00", "edge-01", "edge-02"]),
            ({"key": "other"}, []),
            ({"key": APP, "state": "denied"}, []),
        ],
    )
    def test_filters_hold_over_all_pages(self, fleet, filters, found):
        told = pages(fleet, "Devices", page_size="2", **filters)
        assert [device["device_id"] for page in told for device in page] == found

    @pytest.mark.parametrize(
        "filters",
        [{"state": "lost"}, {"state": ""}, {"reason": "x' OR 'a' = 'a"}, {"reason": "X"}, {"key": "a/b"}],
    )
    def test_a_filter_that_is_none_is_refused(self, fleet, filters):
        reply = fleet.request("Devices", method="GET", params=filters)
        assert (reply.status, reply.document["code"]) == (400, "invalid_request")

    @pytest.mark.parametrize("device_id", ["", "a b", "a/b/c", "ä", "x" * 129, None])
    def test_a_route_that_names_no_device_is_refused(self, fleet, device_id):
        reply = fleet.request("Device", method="GET", route={"device_id": device_id})
        assert (reply.status, reply.document["code"]) == (400, "malformed")

    def test_a_module_has_a_route_of_its_own(self, fleet):
        fleet.cloud.registry.enrol("edge-00/camera")
        route = {"device_id": "edge-00", "module_id": "camera"}
        told = fleet.request("DeviceModule", method="GET", route=route).document
        assert (told["device_id"], told["state"], told["released"]) == ("edge-00/camera", None, None)

    def test_a_tag_that_somebody_else_wrote_does_no_harm(self, fleet):
        fleet.cloud.registry.overwrite(
            "edge-00", "tags", {"confidential_packages": {"state": ["x"], "at": 7}}
        )
        told = fleet.request("Device", method="GET", route={"device_id": "edge-00"}).document
        assert (told["state"], told["at"]) == (None, None)

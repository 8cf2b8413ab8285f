"""A rotation in stages: RotateKey with a rollout, ChangeRollout, Holders, and what devices come to hold."""

import datetime as dt

import pytest
from simulators.build_machine import BuildMachine
from simulators.cloud import APP

from shared.keys.store import VersionState
from shared.rollout import WHOLE, bucket
from shared.twin.documents import KeyReport

STAGES = {"stages": [1500, 5000, WHOLE], "pause_on_errors": 200}
EARLY, LATE, LAST = "edge-01", "edge-03", "edge-02"
"""Devices that the first, the second, and only the last stage reaches."""


@pytest.fixture
def fleet(cloud):
    """Devices that hold version 1 of a class key."""
    cloud.class_keys.provision(APP, bits=256)
    devices = {name: cloud.enrol(name) for name in (EARLY, f"{EARLY}/agent", LATE, LAST)}
    cloud.run()
    for device in devices.values():
        acknowledge(cloud, device)
    cloud.run()
    return devices


def acknowledge(cloud, device, **reports):
    """Let a device report that it holds what its release says."""
    release = cloud.release(device.device_id)
    keys = {
        name: KeyReport(version=key.version, state="installed") for name, key in release.keys.items()
    } | reports
    cloud.acknowledge(device, keys=keys)


def start(app, **changes):
    reply = app.request("RotateKey", {"key_name": APP, "rollout": {**STAGES, **changes}})
    assert reply.status == 200, reply.document
    return reply


def change(app, action, *, version=2, stage=0):
    body = {"key_name": APP, "version": version, "stage": stage, "action": action}
    return app.request("ChangeRollout", body)


def held(cloud, *names):
    return [cloud.release(name).keys[APP].version for name in names or (EARLY, f"{EARLY}/agent", LATE, LAST)]


def test_the_devices_of_these_tests_stand_where_they_have_to():
    assert bucket(EARLY) < 1500 <= bucket(LATE) < 5000 <= bucket(LAST)


def test_each_stage_gives_the_version_to_the_devices_that_it_reaches_and_writes_no_others(app, cloud, fleet):
    expected = [[2, 2, 1, 1], [2, 2, 2, 1], [2, 2, 2, 2], [2, 2, 2, 2]]
    written = [{EARLY, f"{EARLY}/agent"}, {LATE}, {LAST}, set()]
    for stage, (versions, new) in enumerate(zip(expected, written, strict=True)):
        before = len(cloud.registry.writes)
        reply = start(app) if stage == 0 else change(app, "advance", stage=stage - 1)
        assert reply.status == 200
        assert len(app.queues["distribute-passes"]) == 1
        app.drain()
        assert held(cloud) == versions
        assert {device_id for device_id, _ in cloud.registry.writes[before:]} == new
        for device in fleet.values():
            acknowledge(cloud, device)
        quiet = len(cloud.registry.writes)
        app.tick()
        app.drain()
        assert len(cloud.registry.writes) == quiet
    told = app.request("Key", method="GET", route={"key_name": APP}).document["rollout"]
    assert (told["state"], told["stage"], told["share"]) == ("finished", 3, WHOLE)
    assert cloud.store.state(APP).current == 2


def test_the_twins_tag_tells_who_was_given_a_staged_version(app, cloud, fleet):
    start(app)
    app.drain()
    assert [cloud.tag(name).get("rollout") for name in (EARLY, LATE)] == [{APP: 2}, None]
    change(app, "abort")
    app.drain()
    assert [cloud.tag(name).get("rollout") for name in (EARLY, LATE)] == [None, None]
    assert "rollout" not in cloud.tag(EARLY)


def test_what_an_ended_rollout_left_in_a_tag_goes_with_the_next_release(app, cloud, fleet):
    start(app)
    change(app, "finish")
    app.drain()
    assert "rollout" not in cloud.tag(LAST)
    start(app)
    app.drain()
    change(app, "finish", version=3)
    app.drain()
    assert cloud.tag(EARLY)["rollout"] == {APP: 3}  # it holds that very version: nothing to write it for
    app.request("RotateKey", {"key_name": APP})
    app.drain()
    assert "rollout" not in cloud.tag(EARLY)


@pytest.mark.parametrize("planted", [7, "junk", {}, {APP: "2", "other": 3, "no name": {}}, {APP: 2}])
def test_what_somebody_else_wrote_into_the_tag_is_put_right_with_the_next_release(app, cloud, fleet, planted):
    for name in (EARLY, LAST):
        tags = cloud.registry.snapshot(name)["tags"]
        tag = {**tags["confidential_packages"], "rollout": planted}
        cloud.registry.overwrite(name, "tags", {**tags, "confidential_packages": tag})
    start(app)
    app.drain()
    assert cloud.tag(EARLY)["rollout"] == {APP: 2}
    change(app, "finish")
    app.request("RotateKey", {"key_name": APP})
    app.drain()
    assert held(cloud) == [3, 3, 3, 3]
    assert ["rollout" in cloud.tag(name) for name in (EARLY, LAST)] == [False, False]


def test_a_staged_version_whose_time_has_not_come_or_is_over_is_given_to_nobody(app, cloud, fleet):
    start(app)
    begins, ends = cloud.at + dt.timedelta(hours=1), cloud.at + dt.timedelta(hours=2)
    cloud.store.not_before[APP, 2] = begins
    cloud.store._expiry[APP, 2] = ends
    for expected in ([1, 1, 1, 1], [2, 2, 1, 1], [1, 1, 1, 1]):
        app.tick()
        app.drain()
        assert held(cloud) == expected
        cloud.wait(hours=1)
    assert app.request("RotateKey", {"key_name": APP}).document["code"] == "rollout_unfinished"


def test_no_build_is_given_a_staged_version_unasked_even_if_there_is_no_other(app, cloud):
    cloud.class_keys.provision(APP, bits=256)
    cloud.store.not_before[APP, 1] = cloud.at + dt.timedelta(days=1)
    start(app)
    reply = app.request("WrapKey", BuildMachine(cloud.authority).body())
    assert (reply.status, reply.document["code"]) == (403, "key_not_yet_valid")


def test_aborting_gives_the_older_version_back_and_the_next_rotation_makes_another(app, cloud, fleet):
    start(app)
    app.drain()
    assert held(cloud) == [2, 2, 1, 1]
    reply = change(app, "abort")
    assert (reply.document["rollout"]["state"], reply.document["rollout"]["share"]) == ("aborted", 0)
    app.drain()
    assert held(cloud) == [1, 1, 1, 1]
    assert all(cloud.release(name).floors == {} for name in fleet)
    assert app.request("RotateKey", {"key_name": APP}).document["version"] == 3
    app.drain()
    assert held(cloud) == [3, 3, 3, 3]
    assert cloud.store.state(APP).version(2).state is VersionState.ABORTED


def test_of_two_who_found_the_same_stage_one_moves_it(app, cloud, fleet):
    start(app)
    assert change(app, "advance").status == 200
    for action in ("advance", "finish", "abort"):
        reply = change(app, action)
        assert (reply.status, reply.document["code"]) == (409, "rollout_changed")
        assert "found version 2 in stage 1" in reply.document["detail"]
    assert cloud.store.state(APP).staged.rollout.stage == 1


def test_what_is_no_rollout_is_not_moved(app, cloud, fleet):
    missing = change(app, "advance", version=1)
    assert (missing.status, missing.document["code"]) == (409, "rollout_changed")
    start(app)
    other = change(app, "advance", version=1)
    assert (other.status, other.document["code"]) == (409, "rollout_changed")
    unknown = app.request(
        "ChangeRollout", {"key_name": "nobody", "version": 1, "stage": 0, "action": "abort"}
    )
    assert (unknown.status, unknown.document["code"]) == (404, "key_not_found")


@pytest.mark.parametrize("rollout", [None, STAGES])
def test_no_other_version_is_made_while_one_is_on_its_way(app, cloud, fleet, rollout):
    start(app)
    reply = app.request("RotateKey", {"key_name": APP, "rollout": rollout})
    assert (reply.status, reply.document["code"]) == (409, "rollout_unfinished")
    assert cloud.store.state(APP).latest == 2


def test_the_version_that_the_others_have_is_not_revoked_under_them(app, cloud, fleet):
    app.request("RotateKey", {"key_name": APP})
    start(app)
    refused = app.request("RevokeKey", {"key_name": APP, "version": 2})
    assert (refused.status, refused.document["code"]) == (409, "rollout_unfinished")
    assert cloud.store.state(APP).floor == 1
    assert app.request("RevokeKey", {"key_name": APP, "version": 1}).document["floor"] == 2
    app.drain()
    assert held(cloud) == [3, 3, 2, 2]
    assert change(app, "finish", version=3).status == 200
    assert app.request("RevokeKey", {"key_name": APP, "version": 2}).document["floor"] == 3
    app.drain()
    assert held(cloud) == [3, 3, 3, 3]


def test_revoking_the_staged_version_takes_the_whole_class_key_away_and_ends_its_rollout(app, cloud, fleet):
    start(app)
    assert app.request("RevokeKey", {"key_name": APP, "version": 2}).document["floor"] == 3
    app.drain()
    assert [dict(cloud.release(name).keys) for name in fleet] == [{}, {}, {}, {}]
    assert "rollout" not in app.request("Key", method="GET", route={"key_name": APP}).document
    assert change(app, "advance").document["code"] == "rollout_changed"
    assert app.request("RotateKey", {"key_name": APP}).document["version"] == 3
    app.drain()
    assert held(cloud) == [3, 3, 3, 3]


def test_a_staged_version_that_is_disabled_leaves_everybody_the_older_one(app, cloud, fleet):
    start(app)
    app.drain()
    cloud.store.disabled.add((APP, 2))
    app.tick()
    app.drain()
    assert held(cloud) == [1, 1, 1, 1]
    refused = change(app, "advance")
    assert (refused.status, refused.document["code"]) == (403, "key_disabled")
    assert change(app, "abort").status == 200
    cloud.store.disabled.clear()
    app.tick()
    app.drain()
    assert held(cloud) == [1, 1, 1, 1]


def test_builds_get_what_every_device_can_open_and_a_staged_version_if_they_name_it(app, cloud, fleet):
    machine = BuildMachine(cloud.authority)

    def wrapped(**asked):
        reply = app.request("WrapKey", machine.body(**asked))
        return reply.document.get("key_version") or (reply.status, reply.document["code"])

    start(app)
    assert (wrapped(), wrapped(key_version=2)) == (1, 2)
    for stage in range(3):
        assert wrapped() == 1
        change(app, "advance", stage=stage)
    assert wrapped() == 2
    start(app)
    change(app, "abort", version=3)
    assert (wrapped(), wrapped(key_version=3)) == (2, (403, "key_aborted"))


def test_a_staged_rotation_that_is_sent_again_is_made_once(app, cloud, fleet):
    headers = {"Idempotency-Key": "once"}
    asked = {"key_name": APP, "rollout": STAGES}
    first, again = (app.request("RotateKey", asked, headers=headers) for _ in range(2))
    assert first.document == again.document == {"key_name": APP, "version": 2}
    other = app.request("RotateKey", {"key_name": APP}, headers=headers)
    assert (other.status, other.document["code"]) == (422, "idempotency_key_reused")


def test_what_was_done_to_a_rollout_is_audited(app, cloud, fleet, audit):
    before = len(audit())
    start(app)
    change(app, "advance")
    change(app, "advance")
    records = [record for record in audit()[before:] if record["event"] != "distribute"]
    told = [(each["event"], each["outcome"], each["key_version"], each["detail"]) for each in records]
    assert told[:2] == [
        ("rotate", "allowed", 2, "staged:0:1500,5000,10000:200:10000"),
        ("advance_rollout", "allowed", 2, "staged:1:1500,5000,10000:200:10000"),
    ]
    assert told[2][:3] == ("advance_rollout", "failed", 2)
    assert records[2]["reason"] == "rollout_changed"


@pytest.mark.parametrize(
    ("rollout", "told"),
    [
        (7, "/rollout: expected an object"),
        ({}, "/rollout/stages"),
        ({"stages": []}, "1 to 16 stages"),
        ({"stages": [100, 50, 10_000]}, "more devices"),
        ({"stages": [100]}, "last stage"),
        ({"stages": [True, 10_000]}, "/rollout/stages"),
        ({"stages": [1.5, 10_000]}, "/rollout/stages"),
        ({"stages": ["1%", "100%"]}, "/rollout/stages"),
        ({"stages": [10_000], "pause_on_errors": None}, "/rollout/pause_on_errors"),
        ({"stages": [10_000], "pause_on_errors": 10_001}, "no share"),
        ({"stages": [10_000], "acknowledged": 0}, "no share"),
    ],
)
def test_a_way_to_the_fleet_that_makes_no_sense_is_refused(app, cloud, fleet, rollout, told):
    reply = app.request("RotateKey", {"key_name": APP, "rollout": rollout})
    assert (reply.status, reply.document["code"]) == (400, "invalid_request")
    assert told in reply.document["detail"]
    assert cloud.store.state(APP).latest == 1


def test_faults_of_a_change_are_all_told(app):
    reply = change(app, "pause", version=0, stage=17)
    assert {fault["pointer"] for fault in reply.document["errors"]} == {"/version", "/stage", "/action"}


class TestHolders:
    def holders(self, app, **params):
        found, token = [], {}
        while True:
            page = app.request(
                "Holders",
                method="GET",
                route={"key_name": APP},
                params={"page_size": "2", **params, **token},
            ).document
            found += page["holders"]
            if "next_token" not in page:
                return {each["device_id"]: each for each in found}
            token = {"token": page["next_token"]}

    def test_who_still_holds_a_version_is_told_page_by_page(self, app, cloud, fleet):
        start(app)
        app.drain()
        acknowledge(cloud, fleet[EARLY])
        everybody = self.holders(app)
        assert set(everybody) == set(fleet)
        assert everybody[EARLY] == {
            "device_id": EARLY,
            "bucket": bucket(EARLY),
            "given_at": "2030-01-01T00:00:00Z",
            "staged": 2,
            "version": 2,
            "state": "installed",
            "error": None,
            "outcome": "released",
        }
        assert (everybody[LAST]["staged"], everybody[LAST]["version"]) == (None, 1)
        assert set(self.holders(app, version="1")) == {f"{EARLY}/agent", LATE, LAST}
        assert set(self.holders(app, version="2")) == {EARLY, f"{EARLY}/agent"}
        assert self.holders(app, version="3") == {}

    def test_who_cannot_use_it_is_told_with_the_reason(self, app, cloud, fleet):
        failure = KeyReport(version=1, state="error", error="unwrap_failed")
        acknowledge(cloud, fleet[LATE], **{APP: failure})
        found = self.holders(app, state="error")
        assert {name: (each["version"], each["error"]) for name, each in found.items()} == {
            LATE: (1, "unwrap_failed")
        }

    def test_what_a_twin_says_is_told_only_if_it_is_what_it_should_be(self, app, cloud, fleet):
        cloud.registry.report(
            LAST, {"confidential_package_status": {"keys": {APP: {"ver": "1", "state": 7, "error": []}}}}
        )
        cloud.registry.overwrite(LATE, "tags", {"confidential_packages": {"rollout": {APP: -1}, "state": 1}})
        found = self.holders(app)
        assert [found[LAST][member] for member in ("version", "state", "error")] == [None, None, None]
        assert [found[LATE][member] for member in ("staged", "outcome")] == [None, None]

    def test_an_id_that_no_hub_gives_hides_no_other(self, app, cloud, fleet):
        cloud.registry.enrol("no id")
        cloud.registry.overwrite("no id", "desired", {"confidential_package_keys": {APP: "AAAA"}})
        assert set(self.holders(app)) == set(fleet)

    @pytest.mark.parametrize(
        ("params", "parameter"),
        [
            ({"version": "0"}, "version"),
            ({"version": "1 OR true"}, "version"),
            ({"state": "waiting"}, "state"),
            ({"page_size": "0"}, "page_size"),
        ],
    )
    def test_faults_of_the_query_are_told(self, app, params, parameter):
        reply = app.request("Holders", method="GET", route={"key_name": APP}, params=params)
        assert (reply.status, reply.document["errors"][0]["parameter"]) == (400, parameter)

    def test_a_token_that_no_page_told_and_a_name_that_is_none_are_refused(self, app):
        token = app.request("Holders", method="GET", route={"key_name": APP}, params={"token": "x"})
        assert (token.status, token.document["code"]) == (400, "token_invalid")
        name = app.request("Holders", method="GET", route={"key_name": "a]]"})
        assert (name.status, name.document["code"]) == (400, "name_invalid")

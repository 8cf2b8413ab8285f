"""What a device's twin comes to hold, and when nothing is written."""

from __future__ import annotations

import datetime as dt
import json

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from simulators.cloud import APP, Cloud
from simulators.fleet import DAY, NOW, Authority, Device, failed, make_policy, policy_document

from shared.keys.unwrapping import unwrap_key
from shared.keys.wrapping import WrapContext
from shared.policy.document import load_policy
from shared.release.verifying import Expectation, Verdict, verify_release
from shared.twin.documents import parse_desired
from shared.types import KeyName, WrapAlgorithm


@pytest.fixture
def cloud():
    made = Cloud()
    made.class_keys.provision(APP, bits=256)
    return made


def expectation(cloud: Cloud, device: Device, **changes) -> Expectation:
    values = {
        "audience": "fleet-a",
        "device_id": device.device_id,
        "fingerprint": device.public_key.fingerprint,
        "at": cloud.at,
        "last_sequence": 0,
        "last_digest": None,
        "floors": {},
    }
    return Expectation(**{**values, **changes})


@pytest.mark.parametrize("kind", ["rsa", "p256", "x25519"])
def test_a_certified_gateway_gets_the_class_key_in_a_release_that_its_cpm_believes(cloud, kind):
    device = cloud.enrol(kind=kind)
    assert cloud.run() == []

    desired = parse_desired(cloud.registry.snapshot("edge-01")["desired"])
    verdict, release = verify_release(
        desired.release, desired.wrapped, cloud.signer.public_keys(), expectation(cloud, device)
    )
    assert verdict is Verdict.NEW
    context = WrapContext(audience="fleet-a", device_id="edge-01", name=APP, version=1)
    key = unwrap_key(desired.wrapped[APP], device.private_key, release.keys[APP].algorithm, context=context)
    assert key.reveal() == cloud.class_keys.open(APP, 1).reveal()
    assert cloud.tag() == {"state": "released", "at": "2030-05-17T12:00:00Z"}
    assert release.expires_at == int((NOW + 30 * DAY).timestamp())
    assert release.sequence == int(NOW.timestamp() * 1000)


def test_a_second_pass_over_an_unchanged_fleet_wraps_signs_and_writes_nothing(cloud):
    for number in range(5):
        cloud.enrol(f"edge-{number:02}")
    cloud.run()
    signatures, writes, unwraps = cloud.signer.signatures, len(cloud.registry.writes), cloud.kek.unwraps
    cloud.wait(minutes=5)
    cloud.run()
    assert (cloud.signer.signatures, len(cloud.registry.writes), cloud.kek.unwraps) == (
        signatures,
        writes,
        unwraps,
    )


def test_the_vault_opens_a_class_key_once_for_a_whole_fleet(cloud):
    for number in range(8):
        cloud.enrol(f"edge-{number:02}")
    cloud.run()
    assert (cloud.kek.unwraps, cloud.store.listings, cloud.signer.signatures) == (1, 1, 8)


def test_a_module_is_served_under_its_own_name(cloud):
    cloud.enrol("edge-01/cpm-agent")
    cloud.run()
    assert cloud.release("edge-01/cpm-agent").device_id == "edge-01/cpm-agent"


class TestWhatMakesANewRelease:
    def test_a_new_device_key_gets_the_keys_wrapped_again(self, cloud):
        cloud.enrol()
        cloud.run()
        first = cloud.release()
        again = Device.make(cloud.authority)
        cloud.registry.report("edge-01", again.report(sequence=first.sequence))
        cloud.run()
        assert cloud.release().fingerprint == again.public_key.fingerprint
        assert cloud.release().sequence > first.sequence

    def test_rotation_releases_the_newest_version_alone(self, cloud):
        device = cloud.enrol()
        cloud.run()
        cloud.acknowledge(device)
        cloud.class_keys.rotate(APP)
        cloud.wait(seconds=1)
        cloud.run()
        release = cloud.release()
        assert {name: key.version for name, key in release.keys.items()} == {APP: 2}
        assert release.floors == {}

    def test_revocation_raises_the_floor_in_the_release(self, cloud):
        cloud.enrol()
        cloud.class_keys.rotate(APP)
        cloud.run()
        cloud.class_keys.revoke(APP, 1)
        cloud.run()
        assert cloud.release().floors == {APP: 2}
        assert cloud.release().keys[APP].version == 2

    def test_a_wholly_revoked_key_is_taken_away_and_its_floor_is_told(self, cloud):
        cloud.enrol()
        cloud.run()
        cloud.class_keys.revoke(APP, 1)
        cloud.run()
        assert cloud.wrapped() == {}
        assert cloud.release().keys == {}
        assert cloud.release().floors == {APP: 2}
        writes = len(cloud.registry.writes)
        cloud.run()
        assert len(cloud.registry.writes) == writes

    def test_a_new_policy_is_told_in_a_new_release(self, cloud):
        cloud.enrol()
        cloud.run()
        changed = make_policy(cloud.authority.root_sha256, serial=2)
        cloud.policy = changed
        cloud.run()
        assert cloud.release().policy_sha256 == changed.digest

    def test_a_lease_is_renewed_when_a_third_of_it_is_left(self, cloud):
        cloud.enrol()
        cloud.run()
        cloud.wait(days=19, hours=23)
        cloud.run()
        assert len(cloud.registry.writes) == 1
        cloud.wait(hours=1)
        cloud.run()
        assert len(cloud.registry.writes) == 2
        assert cloud.release().issued_at == int(cloud.at.timestamp())

    def test_a_device_that_is_ahead_of_a_restored_twin_is_overtaken(self, cloud):
        device = cloud.enrol()
        cloud.run()
        backup = cloud.registry.snapshot("edge-01")
        cloud.class_keys.rotate(APP)
        cloud.wait(seconds=1)
        cloud.run()
        latest = cloud.release().sequence
        cloud.registry.restore("edge-01", backup)
        far_ahead = latest + 10**9
        cloud.registry.report("edge-01", device.status(sequence=far_ahead))
        cloud.run()
        assert cloud.release().sequence == far_ahead + 1
        writes = len(cloud.registry.writes)
        cloud.run()
        assert len(cloud.registry.writes) == writes

    def test_no_sequence_is_used_twice_when_desired_is_restored_while_the_clock_is_behind(self, cloud):
        """A device that applied the first of two would take the second for a replay, and stay without it."""
        cloud.enrol()
        cloud.run()
        before = cloud.registry.snapshot("edge-01")["desired"]
        cloud.wait(hours=-1)
        cloud.class_keys.rotate(APP)
        cloud.run()
        first = cloud.release().sequence
        cloud.registry.overwrite("edge-01", "desired", before)
        cloud.run()
        assert cloud.release().sequence > first

    def test_an_older_release_that_would_do_as_well_is_replaced(self, cloud):
        """The device may have applied a later one, and would not believe this one."""
        cloud.enrol()
        cloud.run()
        before = cloud.registry.snapshot("edge-01")["desired"]
        cloud.registry.disable("edge-01")
        cloud.run()
        cloud.registry.set_status("edge-01", "enabled")
        cloud.run()
        latest = cloud.release()
        cloud.registry.overwrite("edge-01", "desired", before)
        cloud.run()
        assert cloud.release().keys.keys() == latest.keys.keys()
        assert cloud.release().sequence > latest.sequence

    def test_what_was_noted_is_not_forgotten_while_nothing_is_released(self, cloud):
        device = cloud.enrol()
        cloud.run()
        cloud.wait(hours=-1)
        cloud.class_keys.rotate(APP)
        cloud.run()
        latest = cloud.release().sequence
        cloud.registry.overwrite("edge-01", "desired", {"$version": 9})
        cloud.registry.report("edge-01", {**device.report(), "confidential_package_status": 7})
        cloud.run()
        assert cloud.tag()["reason"] == "report_malformed"
        cloud.registry.report("edge-01", device.report())
        cloud.run()
        assert cloud.release().sequence > latest

    def test_a_sequence_that_the_tag_makes_up_moves_the_next_one_by_a_day_at_most(self, cloud):
        cloud.enrol()
        cloud.run()
        tags = cloud.registry.snapshot("edge-01")["tags"]
        note = {"context": "", "seen": "", "seq": 2**52 - 1, "until": 0}
        forged = {**tags, "confidential_packages": {**tags["confidential_packages"], "settled": note}}
        cloud.registry.overwrite("edge-01", "tags", forged)
        cloud.class_keys.rotate(APP)
        cloud.run()
        assert cloud.release().sequence == int(cloud.seconds() * 1000) + 86_400_000 + 1

    @pytest.mark.parametrize(
        "desired",
        [
            {"confidential_package_keys": {"my_confidential_app": "AAAA"}},
            {"confidential_package_keys": {"no such/name": "AAAA", "planted": "AAAA"}},
            {"confidential_package_keys": "all of them"},
            {"confidential_package_release": {"v": 2, "cose": "AAAA"}},
            {"confidential_package_release": 7},
        ],
    )
    def test_what_somebody_planted_in_desired_is_overwritten(self, cloud, desired):
        device = cloud.enrol()
        cloud.registry.overwrite("edge-01", "desired", {"others": {"stay": True}, **desired})
        cloud.run()
        assert set(cloud.wrapped()) == {APP}
        assert cloud.release().fingerprint == device.public_key.fingerprint
        assert cloud.registry.snapshot("edge-01")["desired"]["others"] == {"stay": True}

    def test_another_devices_release_is_not_this_ones(self, cloud):
        cloud.enrol("edge-01")
        cloud.enrol("edge-02")
        cloud.run()
        cloud.registry.overwrite("edge-02", "desired", cloud.registry.snapshot("edge-01")["desired"])
        cloud.run()
        assert cloud.release("edge-02").device_id == "edge-02"

    def test_a_release_of_a_key_that_is_no_longer_enabled_is_replaced(self, cloud):
        cloud.enrol()
        cloud.run()
        cloud.signer = type(cloud.signer)()
        cloud.run()
        assert set(cloud.release().keys) == {APP}

    def test_a_release_of_an_older_enabled_release_key_stays(self, cloud):
        cloud.enrol()
        cloud.run()
        cloud.signer.rotate()
        cloud.run()
        assert len(cloud.registry.changes) == 1


class TestDenial:
    def test_a_device_of_another_fleet_is_told_why_and_gets_no_key(self, cloud):
        rogue = Device.make(Authority("rogue CA"), "rogue-01")
        cloud.registry.enrol("rogue-01", tags={"class": "gateway"})
        cloud.registry.report("rogue-01", rogue.report())
        cloud.run()
        assert cloud.tag("rogue-01") == {
            "state": "denied",
            "reason": "certificate_untrusted",
            "at": "2030-05-17T12:00:00Z",
        }
        assert cloud.registry.snapshot("rogue-01")["desired"] == {}
        assert (cloud.kek.unwraps, cloud.signer.signatures) == (0, 0)
        cloud.wait(minutes=5)
        cloud.run()
        assert len(cloud.registry.writes) == 1

    @pytest.mark.parametrize(
        ("validity", "reason"),
        [
            ({"not_after": NOW - DAY}, "certificate_expired"),
            ({"not_before": NOW + DAY}, "certificate_not_yet_valid"),
        ],
    )
    def test_the_certificates_own_fault_is_the_reason(self, cloud, validity, reason):
        cloud.enrol(**validity)
        cloud.run()
        assert cloud.tag()["reason"] == reason

    def test_a_missing_certificate_is_the_reason(self, cloud):
        cloud.enrol()
        cloud.registry.report("edge-01", {"device_cert": None})
        cloud.run()
        assert cloud.tag()["reason"] == "certificate_missing"

    def test_a_certificate_over_another_key_is_the_reason(self, cloud):
        cloud.enrol()
        other = Device.make(cloud.authority)
        cloud.registry.report("edge-01", {"device_cert": other.identity()["device_cert"]})
        cloud.run()
        assert cloud.tag()["reason"] == "key_mismatch"

    def test_another_devices_certificate_is_the_reason(self, cloud):
        cloud.enrol()
        other = Device.make(cloud.authority, "edge-02")
        cloud.registry.report("edge-01", other.report())
        cloud.run()
        assert cloud.tag()["reason"] == "device_id_mismatch"

    @pytest.mark.parametrize(
        ("reported", "reason"),
        [
            ({"device_public_key": "AAAA"}, "public_key_invalid"),
            ({"device_public_key": 7}, "public_key_invalid"),
            ({"device_cert": "AAAA"}, "certificate_malformed"),
            ({"confidential_package_status": {"v": 3}}, "report_malformed"),
        ],
    )
    def test_a_field_that_does_not_parse_denies_that_device_alone(self, cloud, reported, reason):
        cloud.enrol("edge-01")
        cloud.enrol("edge-02")
        cloud.registry.report("edge-01", reported)
        assert cloud.run() == []
        assert cloud.tag("edge-01")["reason"] == reason
        assert cloud.tag("edge-02")["state"] == "released"

    def test_a_disabled_device_is_denied_as_such(self, cloud):
        device = Device.make(cloud.authority)
        cloud.registry.enrol("edge-01", tags={"class": "gateway"}, status="disabled")
        cloud.registry.report("edge-01", device.report())
        cloud.run()
        assert cloud.tag()["reason"] == "device_disabled"

    def test_a_wrong_tag_is_a_failed_claim_and_not_the_certificates_fault(self, cloud):
        cloud.enrol()
        cloud.registry.overwrite("edge-01", "tags", {"class": "kiosk"})
        cloud.run()
        assert cloud.tag()["reason"] == "claim_failed"

    def test_a_policy_without_rules_denies(self):
        cloud = Cloud(rules=[])
        cloud.class_keys.provision(APP, bits=256)
        cloud.enrol()
        cloud.run()
        assert cloud.tag()["reason"] == "no_rule"

    def test_no_algorithm_that_the_device_opens_is_a_denial(self, cloud):
        cloud.enrol(status={"algorithms": [WrapAlgorithm.RSA_OAEP_256]})
        cloud.run()
        assert cloud.tag()["reason"] == "unsupported_algorithm"

    def test_what_a_denied_device_holds_is_taken_away_by_a_signed_release_without_keys(self, cloud):
        device = cloud.enrol()
        cloud.run()
        cloud.acknowledge(device)
        before = cloud.release()
        cloud.registry.overwrite("edge-01", "tags", {"class": "kiosk"})
        cloud.wait(seconds=1)
        cloud.run()
        assert cloud.wrapped() == {}
        release = cloud.release()
        assert release.keys == {}
        assert release.sequence > before.sequence
        verdict, _ = verify_release(
            parse_desired(cloud.registry.snapshot("edge-01")["desired"]).release,
            {},
            cloud.signer.public_keys(),
            expectation(cloud, device, last_sequence=before.sequence),
        )
        assert verdict is Verdict.NEW
        changes = len(cloud.registry.changes)
        cloud.wait(days=400)
        cloud.run()
        assert len(cloud.registry.changes) == changes

    @pytest.mark.parametrize(
        ("reported", "reason"), [("AAAA", "public_key_invalid"), (None, "public_key_missing")]
    )
    def test_a_device_without_a_usable_public_key_is_taken_its_keys_under_the_one_it_had(
        self, cloud, reported, reason
    ):
        device = cloud.enrol()
        cloud.run()
        cloud.registry.report("edge-01", {"device_public_key": reported})
        cloud.run()
        assert cloud.wrapped() == {}
        assert (cloud.release().keys, cloud.release().fingerprint) == ({}, device.public_key.fingerprint)
        assert cloud.tag()["reason"] == reason
        writes = len(cloud.registry.writes)
        cloud.run()
        assert len(cloud.registry.writes) == writes

    def test_what_was_planted_under_a_device_without_a_public_key_is_deleted(self, cloud):
        cloud.registry.enrol("edge-01")
        cloud.registry.report("edge-01", {"device_public_key": "AAAA"})
        cloud.registry.overwrite("edge-01", "desired", {"confidential_package_keys": {APP: "AAAA"}})
        cloud.run()
        assert cloud.registry.snapshot("edge-01")["desired"] == {}
        writes = len(cloud.registry.writes)
        cloud.run()
        assert len(cloud.registry.writes) == writes
        writes = len(cloud.registry.writes)
        cloud.run()
        assert len(cloud.registry.writes) == writes

    def test_a_device_that_was_let_in_again_gets_its_keys_back(self, cloud):
        cloud.enrol()
        cloud.run()
        cloud.registry.overwrite("edge-01", "tags", {"class": "kiosk"})
        cloud.run()
        tags = {**cloud.registry.snapshot("edge-01")["tags"], "class": "gateway"}
        cloud.registry.overwrite("edge-01", "tags", tags)
        cloud.run()
        assert set(cloud.wrapped()) == {APP}
        assert cloud.tag() == {"state": "released", "at": "2030-05-17T12:00:00Z"}

    def test_a_denial_is_told_no_more_once_the_policy_allows_and_there_is_nothing_to_release(self, cloud):
        cloud.enrol()
        cloud.registry.overwrite("edge-01", "tags", {"class": "kiosk"})
        cloud.run()
        assert cloud.tag()["state"] == "denied"
        cloud.class_keys.revoke(APP, 1)
        tags = {**cloud.registry.snapshot("edge-01")["tags"], "class": "gateway"}
        cloud.registry.overwrite("edge-01", "tags", tags)
        cloud.run()
        assert cloud.tag()["state"] == "released"
        assert cloud.registry.snapshot("edge-01")["desired"] == {}
        writes = len(cloud.registry.writes)
        cloud.run("edge-01")
        assert len(cloud.registry.writes) == writes

    def test_a_twin_that_takes_no_part_is_left_alone(self, cloud):
        cloud.registry.enrol("thermostat")
        cloud.run("thermostat")
        assert cloud.registry.writes == []


class TestUnwrapFailed:
    def report_failure(self, cloud, device):
        status = device.status(sequence=1, keys={APP: failed(cloud.release(), APP)})
        cloud.registry.report("edge-01", status)

    def test_it_is_wrapped_again_and_after_the_third_failure_quarantined(self, cloud):
        device = cloud.enrol()
        cloud.run()
        told = []
        for _ in range(4):
            self.report_failure(cloud, device)
            cloud.wait(seconds=1)
            cloud.run()
            told.append((cloud.tag()["state"], cloud.tag()["retries"], len(cloud.registry.writes)))
        assert told == [("released", 1, 2), ("released", 2, 3), ("quarantined", 2, 4), ("quarantined", 2, 4)]

    def test_a_failure_that_was_answered_is_not_counted_twice(self, cloud):
        device = cloud.enrol()
        cloud.run()
        self.report_failure(cloud, device)
        cloud.wait(seconds=1)
        cloud.run()
        cloud.run()
        assert (cloud.tag()["retries"], len(cloud.registry.writes)) == (1, 2)

    def test_a_new_device_key_ends_the_quarantine(self, cloud):
        device = cloud.enrol()
        cloud.run()
        for _ in range(3):
            self.report_failure(cloud, device)
            cloud.wait(seconds=1)
            cloud.run()
        assert cloud.tag()["state"] == "quarantined"
        again = Device.make(cloud.authority)
        cloud.registry.report("edge-01", again.report(sequence=cloud.release().sequence))
        cloud.run()
        assert cloud.tag()["state"] == "released"
        assert "retries" not in cloud.tag()

    def test_success_after_all_ends_the_quarantine(self, cloud):
        device = cloud.enrol()
        cloud.run()
        for _ in range(3):
            self.report_failure(cloud, device)
            cloud.wait(seconds=1)
            cloud.run()
        cloud.registry.report(
            "edge-01", {"confidential_package_status": {"keys": {APP: None}, "failed": None}}
        )
        cloud.run()
        assert cloud.tag()["state"] == "released"

    def test_a_quarantined_device_is_denied_all_the_same_once_the_policy_says_no(self, cloud):
        device = cloud.enrol()
        cloud.run()
        for _ in range(3):
            self.report_failure(cloud, device)
            cloud.wait(seconds=1)
            cloud.run()
        tags = {**cloud.registry.snapshot("edge-01")["tags"], "class": "kiosk"}
        cloud.registry.overwrite("edge-01", "tags", tags)
        cloud.run()
        assert cloud.tag()["state"] == "denied"
        assert cloud.wrapped() == {}


class TestBudget:
    def test_a_set_that_does_not_fit_leaves_the_last_good_one(self, cloud):
        cloud.enrol(kind="rsa")
        cloud.run()
        good = cloud.registry.snapshot("edge-01")["desired"]
        for number in range(80):
            cloud.class_keys.provision(KeyName(f"another-confidential-application-{number}"), bits=256)
        cloud.run()
        assert cloud.registry.snapshot("edge-01")["desired"] == good
        assert cloud.tag() == {"state": "over_budget", "at": "2030-05-17T12:00:00Z"}
        writes = len(cloud.registry.writes)
        cloud.run()
        assert len(cloud.registry.writes) == writes

    def test_what_others_keep_in_desired_counts(self, cloud):
        cloud.enrol()
        others = {f"property{number}": "x" * 4000 for number in range(6)}
        cloud.registry.overwrite("edge-01", "desired", others)
        cloud.run()
        assert cloud.tag()["state"] == "over_budget"
        assert cloud.registry.snapshot("edge-01")["desired"] == others

    def test_a_long_release_travels_in_parts_and_is_read_back(self, cloud):
        cloud.enrol(kind="p256")
        for number in range(60):
            cloud.class_keys.provision(KeyName(f"application-{number}"), bits=128)
        cloud.run()
        assert len(cloud.release().keys) == 61
        assert isinstance(
            cloud.registry.snapshot("edge-01")["desired"]["confidential_package_release"]["cose"], dict
        )
        writes = len(cloud.registry.writes)
        cloud.run()
        assert len(cloud.registry.writes) == writes


class TestVersion1Devices:
    @pytest.fixture
    def v1_cloud(self):
        rule = {
            "id": "old",
            "keys": ["*"],
            "operations": ["distribute"],
            "algorithms": ["HPKE-X25519", "RSA1_5", "RSA-OAEP-256"],
            "v1": True,
            "release": {"allOf": [{"claim": "hub.tags.class", "equals": "gateway"}]},
        }
        made = Cloud(rules=[rule])
        made.class_keys.provision(APP, bits=256)
        return made

    def enrol(self, cloud, kind="rsa"):
        device = Device.make(cloud.authority, kind=kind)
        cloud.registry.enrol("edge-01", tags={"class": "gateway"})
        identity = device.identity()
        cloud.registry.report("edge-01", {"device_public_key": identity["device_public_key"]})
        return device

    def test_it_gets_wrapped_keys_alone_if_a_rule_for_such_devices_matches(self, v1_cloud):
        device = self.enrol(v1_cloud)
        v1_cloud.run()
        desired = v1_cloud.registry.snapshot("edge-01")["desired"]
        assert set(desired) == {"confidential_package_keys"}
        context = WrapContext(audience="fleet-a", device_id="edge-01", name=APP, version=1)
        key = unwrap_key(v1_cloud.wrapped()[APP], device.private_key, WrapAlgorithm.RSA1_5, context=context)
        assert key.reveal() == v1_cloud.class_keys.open(APP, 1).reveal()

    def test_a_second_pass_writes_nothing(self, v1_cloud):
        self.enrol(v1_cloud)
        v1_cloud.run()
        v1_cloud.wait(days=100)
        v1_cloud.run()
        assert len(v1_cloud.registry.writes) == 1

    def test_rotation_and_a_new_device_key_are_noticed_without_a_release(self, v1_cloud):
        self.enrol(v1_cloud)
        v1_cloud.run()
        first = v1_cloud.wrapped()[APP]
        v1_cloud.class_keys.rotate(APP)
        v1_cloud.run()
        second = v1_cloud.wrapped()[APP]
        again = Device.make(v1_cloud.authority, kind="rsa")
        v1_cloud.registry.report("edge-01", {"device_public_key": again.identity()["device_public_key"]})
        v1_cloud.run()
        assert len({first, second, v1_cloud.wrapped()[APP]}) == 3

    def test_an_elliptic_key_has_no_algorithm_of_version_1(self, v1_cloud):
        self.enrol(v1_cloud, kind="x25519")
        v1_cloud.run()
        assert v1_cloud.tag()["reason"] == "unsupported_algorithm"

    def test_it_is_denied_where_only_rules_for_version_2_match(self, cloud):
        self.enrol(cloud)
        cloud.run()
        assert cloud.tag()["reason"] == "v1_not_allowed"
        assert cloud.registry.snapshot("edge-01")["desired"] == {}

    def test_a_device_that_was_given_a_release_gets_no_keys_without_one(self, v1_cloud):
        """Else whoever copied its connection string could lose the release, and with it what binds the id."""
        device = self.enrol(v1_cloud)
        v1_cloud.registry.report("edge-01", device.status())
        v1_cloud.run()
        assert set(v1_cloud.release().keys) == {APP}
        for reported in (device, Device.make(v1_cloud.authority, kind="rsa")):
            key = reported.identity()["device_public_key"]
            v1_cloud.registry.report(
                "edge-01", {"device_public_key": key, "confidential_package_status": None}
            )
            v1_cloud.wait(seconds=1)
            v1_cloud.run("edge-01")
            assert v1_cloud.wrapped() == {}
            assert v1_cloud.release().fingerprint == device.public_key.fingerprint
        v1_cloud.registry.report("edge-01", device.report())
        v1_cloud.run("edge-01")
        assert set(v1_cloud.wrapped()) == {APP}

    def test_it_is_told_that_its_status_is_missing(self, v1_cloud):
        device = self.enrol(v1_cloud)
        v1_cloud.registry.report("edge-01", device.status())
        v1_cloud.run()
        v1_cloud.registry.report("edge-01", {"confidential_package_status": None})
        v1_cloud.run()
        assert (v1_cloud.tag()["state"], v1_cloud.tag()["reason"]) == ("denied", "status_missing")

    def test_keys_of_a_denied_one_are_deleted(self, v1_cloud):
        self.enrol(v1_cloud)
        v1_cloud.run()
        tags = {**v1_cloud.registry.snapshot("edge-01")["tags"], "class": "kiosk"}
        v1_cloud.registry.overwrite("edge-01", "tags", tags)
        v1_cloud.run()
        assert v1_cloud.registry.snapshot("edge-01")["desired"] == {}
        assert v1_cloud.tag()["state"] == "denied"


def test_without_any_class_key_nothing_is_written():
    cloud = Cloud()
    cloud.enrol()
    cloud.run()
    assert cloud.registry.writes == []


def test_time_in_another_zone_is_the_same_time(cloud):
    cloud.enrol()
    cloud.at = NOW.astimezone(dt.timezone(dt.timedelta(hours=9)))
    cloud.run()
    assert cloud.tag()["at"] == "2030-05-17T12:00:00Z"


def test_certificates_with_an_issuer_between_are_followed(cloud):
    device = cloud.enrol()
    root = cloud.authority.root.public_bytes(Encoding.DER)
    device.certificates_der += root
    cloud.registry.report("edge-01", device.report())
    cloud.run()
    assert cloud.tag()["state"] == "released"


def without_certificates(cloud):
    """Let the policy ask for no certificate: then a connection string alone would be enough."""
    document = policy_document(cloud.authority.root_sha256)
    conditions = document["rules"][0]["release"]["allOf"]
    document["rules"][0]["release"]["allOf"] = [
        condition for condition in conditions if not condition["claim"].startswith("x509.")
    ]
    cloud.policy = load_policy(json.dumps(document).encode(), where="policy")


class TestBinding:
    """The first release binds a device's id to its key (protocol section 5)."""

    @pytest.fixture
    def bound(self, cloud):
        without_certificates(cloud)
        cloud.enrol()
        cloud.run()
        return cloud

    def impostor(self, cloud):
        """Report another key under the id, as whoever copied the connection string can; no certificate."""
        other = Device.make(cloud.authority)
        report = other.report(sequence=cloud.release().sequence)
        cloud.registry.report("edge-01", {**report, "device_cert": None})
        cloud.wait(seconds=1)
        return other

    def test_another_key_without_a_certificate_is_denied_and_nothing_stays_wrapped(self, bound):
        before = bound.release()
        self.impostor(bound)
        bound.run()
        assert (bound.tag()["state"], bound.tag()["reason"]) == ("denied", "key_not_bound")
        assert bound.wrapped() == {}
        assert bound.release().keys == {}
        assert bound.release().fingerprint == before.fingerprint

    def test_it_stays_bound_however_many_passes_come(self, bound):
        self.impostor(bound)
        for _ in range(3):
            bound.run("edge-01")
            bound.wait(days=1)
        assert bound.tag()["reason"] == "key_not_bound"
        assert len(bound.registry.changes) == 2

    def test_the_key_that_it_is_bound_to_is_served_again(self, bound):
        before = bound.registry.snapshot("edge-01")["reported"]
        self.impostor(bound)
        bound.run()
        bound.registry.overwrite("edge-01", "reported", before)
        bound.run("edge-01")
        assert bound.tag()["state"] == "released"
        assert set(bound.wrapped()) == {APP}

    def test_a_valid_certificate_for_the_new_key_binds_it(self, bound):
        other = Device.make(bound.authority)
        bound.registry.report("edge-01", other.report(sequence=bound.release().sequence))
        bound.wait(seconds=1)
        bound.run()
        assert bound.tag()["state"] == "released"
        assert bound.release().fingerprint == other.public_key.fingerprint

    @pytest.mark.parametrize(
        "in_between",
        [
            {"device_public_key": None},
            {"device_public_key": "AAAA"},
            {"device_public_key": None, "device_cert": None, "confidential_package_status": None},
            {"confidential_package_status": {"v": 9}},
            {"confidential_package_status": None},
        ],
    )
    def test_nothing_that_is_reported_in_between_loosens_it(self, bound, in_between):
        before = bound.release()
        bound.registry.report("edge-01", in_between)
        bound.wait(seconds=1)
        bound.run("edge-01")
        self.impostor(bound)
        bound.run("edge-01")
        assert bound.tag()["reason"] == "key_not_bound"
        assert (bound.release().keys, bound.release().fingerprint) == ({}, before.fingerprint)

    def rebind(self, cloud, fingerprint):
        tags = cloud.registry.snapshot("edge-01")["tags"]
        outcome = {**tags["confidential_packages"], "rebind": fingerprint}
        cloud.registry.overwrite("edge-01", "tags", {**tags, "confidential_packages": outcome})

    def test_an_operators_word_for_the_very_key_binds_it(self, bound):
        other = self.impostor(bound)
        bound.run()
        for fingerprint, state in (("00" * 32, "denied"), (other.public_key.fingerprint.hex(), "released")):
            self.rebind(bound, fingerprint)
            bound.run("edge-01")
            assert bound.tag()["state"] == state
            assert "rebind" not in bound.tag()
        assert bound.release().fingerprint == other.public_key.fingerprint

    def test_an_operators_word_holds_once(self, bound):
        first = {**bound.registry.snapshot("edge-01")["reported"]}
        del first["device_cert"]
        other = self.impostor(bound)
        second = bound.registry.snapshot("edge-01")["reported"]
        self.rebind(bound, other.public_key.fingerprint.hex())
        bound.run("edge-01")
        certified = Device.make(bound.authority)
        bound.registry.report("edge-01", certified.report(sequence=bound.release().sequence))
        bound.run("edge-01")
        assert bound.release().fingerprint == certified.public_key.fingerprint
        for reported in (first, second):
            bound.registry.overwrite("edge-01", "reported", reported)
            bound.run("edge-01")
            assert bound.tag()["reason"] == "key_not_bound"

    def test_a_word_that_came_too_late_is_not_kept(self, bound):
        before = bound.registry.snapshot("edge-01")["reported"]
        other = self.impostor(bound)
        self.rebind(bound, other.public_key.fingerprint.hex())
        bound.registry.overwrite("edge-01", "reported", before)
        bound.run("edge-01")
        assert "rebind" not in bound.tag()

    def test_a_word_for_a_set_that_does_not_fit_waits_until_it_does(self, bound):
        other = self.impostor(bound)
        self.rebind(bound, other.public_key.fingerprint.hex())
        others = {f"other_{number}": "x" * 4000 for number in range(7)}
        held = bound.registry.snapshot("edge-01")["desired"]
        bound.registry.overwrite("edge-01", "desired", {**held, **others})
        for _ in range(2):
            bound.run("edge-01")
            assert (bound.tag()["state"], "rebind" in bound.tag()) == ("over_budget", True)
        bound.registry.overwrite("edge-01", "desired", held)
        bound.run("edge-01")
        assert (bound.tag()["state"], "rebind" in bound.tag()) == ("released", False)
        assert bound.release().fingerprint == other.public_key.fingerprint

    def test_a_denial_for_another_reason_moves_the_binding_as_the_operator_said(self, bound):
        other = self.impostor(bound)
        self.rebind(bound, other.public_key.fingerprint.hex())
        bound.registry.disable("edge-01")
        bound.run("edge-01")
        assert (bound.tag()["reason"], "rebind" in bound.tag()) == ("device_disabled", False)
        assert bound.release().fingerprint == other.public_key.fingerprint

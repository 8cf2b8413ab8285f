"""Devices through their life: they come, change keys, are disabled, go, and come back under the same id."""

from __future__ import annotations

import json

import pytest
from simulators.cloud import APP, Cloud
from simulators.fleet import Authority, Device, policy_document
from simulators.registry import MemoryRegistry

from shared.errors import NotFound, VerificationError
from shared.keys.unwrapping import unwrap_key
from shared.keys.wrapping import WrapContext
from shared.policy.document import load_policy
from shared.types import DeviceId, WrapAlgorithm

IDS = ["edge-01", "edge-01/agent"]


class BetweenReadAndWrite(MemoryRegistry):
    """A registry in which something happens once, after a twin was read and before it is written."""

    happens = None

    def patch(self, device_id, patch, *, etag):
        if self.happens is not None:
            happens, self.happens = self.happens, None
            happens()
        super().patch(device_id, patch, etag=etag)


@pytest.fixture
def cloud():
    made = Cloud()
    made.registry = BetweenReadAndWrite()
    made.class_keys.provision(APP, bits=256)
    return made


@pytest.fixture
def lenient(cloud):
    """The same under a policy that asks for no certificate."""
    document = policy_document(cloud.authority.root_sha256)
    conditions = document["rules"][0]["release"]["allOf"]
    document["rules"][0]["release"]["allOf"] = [
        each for each in conditions if not each["claim"].startswith("x509.")
    ]
    cloud.policy = load_policy(json.dumps(document).encode(), where="policy")
    return cloud


def step(cloud, device_id="edge-01"):
    """Reconcile a device, and say what its tag tells: its state and why."""
    assert cloud.run(device_id) == []
    cloud.wait(seconds=1)
    tag = cloud.tag(device_id)
    return tag and (tag["state"], tag.get("reason"))


def opens(cloud, device):
    """Whether a device's private key opens what its twin holds."""
    wrapped = cloud.wrapped(device.device_id)
    if not wrapped:
        return False
    context = WrapContext(audience="fleet-a", device_id=device.device_id, name=APP, version=1)
    try:
        key = unwrap_key(wrapped[APP], device.private_key, WrapAlgorithm.HPKE_X25519, context=context)
    except VerificationError:
        return False
    return key.reveal() == cloud.class_keys.open(APP, 1).reveal()


def come_back(cloud, device_id="edge-01", *, certified, authority=None):
    """Report another key under a device's id."""
    other = Device.make(authority or cloud.authority, device_id)
    report = other.report()
    cloud.registry.report(device_id, report if certified else {**report, "device_cert": None})
    return other


@pytest.mark.parametrize("device_id", IDS)
class TestDevicesAndModules:
    def test_it_appears_and_is_served(self, cloud, device_id):
        cloud.registry.enrol(device_id, tags={"class": "gateway"})
        assert step(cloud, device_id) is None  # it has reported nothing yet
        device = Device.make(cloud.authority, device_id)
        cloud.registry.report(device_id, device.report())
        assert step(cloud, device_id) == ("released", None)
        assert opens(cloud, device)

    def test_it_is_disabled_and_enabled_again(self, cloud, device_id):
        device = cloud.enrol(device_id)
        assert step(cloud, device_id) == ("released", None)
        cloud.registry.set_status(device_id, "disabled")
        assert step(cloud, device_id) == ("denied", "device_disabled")
        assert (cloud.wrapped(device_id), cloud.release(device_id).keys) == ({}, {})
        cloud.registry.set_status(device_id, "enabled")
        assert step(cloud, device_id) == ("released", None)
        assert opens(cloud, device)

    def test_its_new_key_with_a_certificate_is_served_and_the_old_one_opens_nothing(self, cloud, device_id):
        first = cloud.enrol(device_id)
        step(cloud, device_id)
        second = come_back(cloud, device_id, certified=True)
        assert step(cloud, device_id) == ("released", None)
        assert opens(cloud, second)
        assert (
            cloud.release(device_id).fingerprint
            == second.public_key.fingerprint
            != first.public_key.fingerprint
        )

    def test_its_new_key_without_one_is_denied_as_the_policy_says(self, cloud, device_id):
        cloud.enrol(device_id)
        step(cloud, device_id)
        come_back(cloud, device_id, certified=False)
        assert step(cloud, device_id) == ("denied", "certificate_missing")
        assert cloud.wrapped(device_id) == {}

    def test_its_new_key_without_one_is_denied_where_the_policy_asks_for_none(self, lenient, device_id):
        lenient.enrol(device_id)
        step(lenient, device_id)
        come_back(lenient, device_id, certified=False)
        assert step(lenient, device_id) == ("denied", "key_not_bound")
        come_back(lenient, device_id, certified=True, authority=Authority("rogue CA"))
        assert step(lenient, device_id) == ("denied", "key_not_bound")
        assert lenient.wrapped(device_id) == {}

    def test_a_certificate_that_comes_later_binds_it(self, lenient, device_id):
        lenient.enrol(device_id)
        step(lenient, device_id)
        second = come_back(lenient, device_id, certified=False)
        assert step(lenient, device_id) == ("denied", "key_not_bound")
        lenient.registry.report(device_id, second.report())
        assert step(lenient, device_id) == ("released", None)
        assert opens(lenient, second)

    def test_it_is_deleted_before_it_is_read(self, cloud, device_id):
        cloud.enrol(device_id)
        cloud.registry.delete(device_id)
        assert cloud.run(device_id) == []

    def test_it_is_deleted_between_read_and_write(self, cloud, device_id):
        cloud.enrol(device_id)
        cloud.registry.happens = lambda: cloud.registry.delete(device_id)
        assert cloud.run(device_id) == []
        with pytest.raises(NotFound):
            cloud.registry.read(DeviceId(device_id))

    def test_it_is_deleted_and_made_again_and_its_new_key_is_bound(self, lenient, device_id):
        first = lenient.enrol(device_id)
        step(lenient, device_id)
        lenient.registry.delete(device_id)
        second = lenient.enrol(device_id)
        assert step(lenient, device_id) == ("released", None)
        assert opens(lenient, second)
        lenient.registry.report(device_id, {**first.report(), "device_cert": None})
        assert step(lenient, device_id) == ("denied", "key_not_bound")

    def test_it_is_made_again_between_read_and_write_and_gets_nothing_for_its_old_key(
        self, lenient, device_id
    ):
        lenient.enrol(device_id)
        made = []

        def again():
            lenient.registry.delete(device_id)
            made.append(lenient.enrol(device_id))

        lenient.registry.happens = again
        assert step(lenient, device_id) == ("released", None)
        assert opens(lenient, made[0])

    @pytest.mark.parametrize("certified", [True, False])
    def test_it_is_made_again_with_the_very_etag_that_was_read(self, lenient, device_id, certified):
        """A hub gives all new twins the same ETag: what was made for the old key lands in the new twin.

        Its CPM believes no release for another key. A certificate ends it with the next step, or an operator.
        """
        old = lenient.enrol(device_id)
        etag = lenient.registry.read(DeviceId(device_id)).etag
        made = []

        def again():
            lenient.registry.delete(device_id)
            lenient.registry.enrol(device_id, tags={"class": "gateway"})
            made.append(come_back(lenient, device_id, certified=certified))
            lenient.registry.set_etag(device_id, etag)

        lenient.registry.happens = again
        step(lenient, device_id)
        assert lenient.release(device_id).fingerprint == old.public_key.fingerprint
        assert not opens(lenient, made[0])
        expected = ("released", None) if certified else ("denied", "key_not_bound")
        assert step(lenient, device_id) == expected
        assert opens(lenient, made[0]) is certified


class TestProvisionedByDps:
    """To the function app such a device is one that appears; what counts is what DPS does to its twin."""

    def test_a_twin_that_was_reset_binds_the_key_that_comes_next(self, lenient):
        lenient.enrol()
        step(lenient)
        lenient.registry.overwrite("edge-01", "desired", {})
        lenient.registry.overwrite("edge-01", "tags", {"class": "gateway"})
        lenient.registry.overwrite("edge-01", "reported", {})
        assert step(lenient) is None
        second = come_back(lenient, certified=False)
        assert step(lenient) == ("released", None)
        assert opens(lenient, second)

    def test_a_twin_that_was_kept_stays_bound(self, lenient):
        lenient.enrol()
        step(lenient)
        come_back(lenient, certified=False)
        assert step(lenient) == ("denied", "key_not_bound")

    def test_one_that_moved_to_another_hub_begins_anew_there(self, lenient):
        first = lenient.enrol()
        step(lenient)
        elsewhere = Cloud()
        elsewhere.authority, elsewhere.policy = lenient.authority, lenient.policy
        elsewhere.class_keys.provision(APP, bits=256)
        elsewhere.registry.enrol("edge-01", tags={"class": "gateway"})
        elsewhere.registry.report("edge-01", first.report(sequence=lenient.release().sequence))
        assert elsewhere.run() == []
        # A device that applied a release before is overtaken, or its CPM would take the new one for a replay.
        assert elsewhere.release().sequence > lenient.release().sequence


def test_a_fleet_that_changes_while_a_pass_lists_it_is_served_all_the_same(cloud):
    """Devices go and come between the pages of a pass: nobody fails, and nobody who stays is left out."""
    cloud.registry._page_size = 2
    for number in range(6):
        cloud.enrol(f"edge-0{number}")
    one_pass = cloud.distributor.begin_pass(correlation_id="pass")
    first = cloud.registry.rows(token=None)
    cloud.registry.delete("edge-00")
    cloud.enrol("edge-07")
    second = cloud.registry.rows(token=first.next_token)
    assert one_pass.reconcile_all(one_pass.unsettled([*first.rows, *second.rows])) == []
    assert cloud.run() == []
    for number in (1, 2, 3, 4, 5, 7):
        assert cloud.tag(f"edge-0{number}")["state"] == "released"

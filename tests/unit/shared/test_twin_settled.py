"""Which changes a row of a query must show, so that a full pass looks at the twin."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from simulators.cloud import APP, Cloud
from simulators.fleet import make_policy, policy_document

from shared.policy.document import load_policy
from shared.twin.documents import KeyReport
from shared.twin.ports import TwinRow
from shared.twin.settled import NOTE, read_note
from shared.types import DeviceId


@pytest.fixture
def cloud():
    cloud = Cloud()
    cloud.class_keys.provision(APP, bits=256)
    return cloud


@pytest.fixture
def device(cloud):
    """A device that was released its key and acknowledged it."""
    device = cloud.enrol()
    cloud.run()
    cloud.acknowledge(device)
    return device


def unsettled(cloud):
    one_pass = cloud.distributor.begin_pass(correlation_id="test")
    return one_pass.unsettled(cloud.registry.rows(token=None).rows)


def test_a_device_that_acknowledged_is_settled(cloud, device):
    assert unsettled(cloud) == []


def test_a_device_that_was_denied_is_settled_once_it_was_told(cloud):
    cloud.enrol("rogue-01")
    cloud.registry.overwrite("rogue-01", "tags", {"class": "kiosk"})
    assert unsettled(cloud) == ["rogue-01"]
    cloud.run()
    assert cloud.tag("rogue-01")["state"] == "denied"
    assert unsettled(cloud) == []


def test_a_device_whose_report_did_not_parse_is_looked_at_until_it_does(cloud, device):
    """What a row tells of a report is the same before and after: a later pass must find it mended."""
    cloud.registry.report("edge-01", {"confidential_package_status": {"keys": {"app": {"ver": "none"}}}})
    cloud.run("edge-01")
    assert cloud.tag()["reason"] == "report_malformed"
    cloud.run("edge-01")
    writes = len(cloud.registry.writes)
    assert unsettled(cloud) == ["edge-01"]
    cloud.run()
    assert len(cloud.registry.writes) == writes
    cloud.registry.report("edge-01", {"confidential_package_status": {"keys": {"app": None}}})
    cloud.run()
    assert cloud.tag()["state"] == "released"


def change_class(cloud, device):
    tags = cloud.registry.snapshot("edge-01")["tags"]
    cloud.registry.overwrite("edge-01", "tags", {**tags, "class": "kiosk"})


def disable(cloud, device):
    cloud.registry.disable("edge-01")


def plant_a_key(cloud, device):
    cloud.registry.overwrite("edge-01", "desired", {"confidential_package_keys": {"planted": "AAAA"}})


def wipe_the_tag(cloud, device):
    cloud.registry.overwrite("edge-01", "tags", {"class": "gateway"})


def fail_to_unwrap(cloud, device):
    sequence = cloud.release().sequence
    failure = KeyReport(version=1, state="error", error="unwrap_failed", sequence=sequence)
    cloud.registry.report("edge-01", device.status(sequence=sequence, keys={APP: failure}))


def run_ahead(cloud, device):
    cloud.registry.report("edge-01", device.status(sequence=cloud.release().sequence + 1))


def change_the_policy(cloud, device):
    cloud.policy = make_policy(cloud.authority.root_sha256, serial=2)


CHANGES = {
    "a rotation": lambda cloud, _: cloud.class_keys.rotate(APP),
    "a revocation": lambda cloud, _: cloud.class_keys.revoke(APP, 1),
    "a new class key that it may have": lambda cloud, _: cloud.class_keys.provision("other", bits=256),
    "a tag of the policy": change_class,
    "disabled in the hub": disable,
    "desired written by others": plant_a_key,
    "a tag that is gone": wipe_the_tag,
    "its key reported again": lambda cloud, device: cloud.registry.report("edge-01", device.identity()),
    "a failure to unwrap": fail_to_unwrap,
    "a device that is ahead": run_ahead,
    "another policy": change_the_policy,
    "a lease to renew": lambda cloud, _: cloud.wait(days=21),
    "a certificate that ends": lambda cloud, _: cloud.wait(days=366),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_change_that_may_matter_unsettles_it(cloud, device, change):
    change(cloud, device)
    assert unsettled(cloud) == ["edge-01"]
    cloud.run()
    assert unsettled(cloud) == []


def set_another_tag(cloud, _device):
    tags = cloud.registry.snapshot("edge-01")["tags"]
    cloud.registry.overwrite("edge-01", "tags", {**tags, "location": "hall 7"})


def provision_for_others(cloud, _device):
    document = policy_document(cloud.authority.root_sha256)
    gateways = document["rules"][0]
    kiosks = json.loads(json.dumps(gateways))
    kiosks["id"], kiosks["keys"] = "kiosks", ["kiosk_app"]
    kiosks["release"]["allOf"][0]["equals"] = "kiosk"
    gateways["keys"] = [APP]
    document["rules"].append(kiosks)
    cloud.policy = load_policy(json.dumps(document).encode(), where="policy")
    cloud.run()
    cloud.class_keys.provision("kiosk_app", bits=256)


@pytest.mark.parametrize(
    "change",
    [
        set_another_tag,
        provision_for_others,
        lambda cloud, _: cloud.registry.report("edge-01", {"temperature": 20}),
        lambda cloud, _: cloud.wait(days=19),
    ],
    ids=["a tag that no rule speaks of", "a key for others", "another report", "a part of the lease"],
)
def test_what_cannot_matter_leaves_it_settled(cloud, device, change):
    change(cloud, device)
    assert unsettled(cloud) == []


def test_a_decision_without_consequence_is_noted_with_one_write_of_the_tag(cloud, device):
    cloud.registry.report("edge-01", device.identity())
    before = len(cloud.registry.writes)
    cloud.run()
    [(_, patch)] = cloud.registry.writes[before:]
    assert list(patch) == ["tags"]
    assert list(patch["tags"]["confidential_packages"]) == [NOTE]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["confidential_packages", NOTE, "context", "seen", "until", "seq", "x"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@given(values=st.tuples(*[JSON] * 10))
def test_a_row_of_junk_is_never_settled_and_never_a_failure(values):
    cloud = Cloud()
    cloud.class_keys.provision(APP, bits=256)
    one_pass = cloud.distributor.begin_pass(correlation_id="test")
    assert one_pass.settlement.is_settled(TwinRow(*values), now=0) is False


def test_a_note_is_read_back_as_it_was_written(cloud, device):
    note = read_note(cloud.registry.read(DeviceId("edge-01")).tags)
    assert note.sequence == cloud.release().sequence
    assert note.tag() == cloud.registry.snapshot("edge-01")["tags"]["confidential_packages"][NOTE]

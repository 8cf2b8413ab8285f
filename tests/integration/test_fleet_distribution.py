"""Distribution over the local cloud's hub and vault: crashed workers, and what becomes of devices."""

from collections import Counter
from pathlib import Path

import httpx
import pytest
from simulators.fleet import Authority, Device, policy_document
from simulators.running_cloud import RunningCloud

APP = Path(__file__).parent / "apps" / "crashing"
KEY_NAME = "fleet_app"
AUTHORITY = Authority()


def policy():
    """Return a policy that gives every enabled gateway every key, whatever its certificate."""
    document = policy_document(AUTHORITY.root_sha256)
    conditions = document["rules"][0]["release"]["allOf"]
    document["rules"][0]["release"]["allOf"] = [
        each for each in conditions if not each["claim"].startswith("x509.")
    ]
    return document


def joined(cloud, device_id):
    """Enrol a device that reports its key; return it."""
    device = Device.make(AUTHORITY, device_id)
    device.certificates_der = None
    cloud.devices.enrol(device_id, tags={"class": "gateway"})
    cloud.devices.report(device_id, device.report())
    return device


def shown(cloud, device_id):
    return cloud.call(f"devices/{device_id}").json()


def is_up(cloud):
    try:
        return cloud.call("health").is_success
    except httpx.TransportError:
        return False


def released(cloud, device_id):
    """Return the class keys that a device was released; None if it has no release."""
    release = shown(cloud, device_id)["released"]
    return None if release is None else release["keys"]


def records(cloud, **wanted):
    """Return the audit records with these members."""
    found, after = [], 0
    while True:
        page = cloud.call("audit", params={"after": after, "limit": 1000}).json()
        found += [entry["record"] for entry in page["records"]]
        after = page.get("next")
        if after is None:
            return [each for each in found if wanted.items() <= each.items()]


@pytest.mark.timeout(600)
def test_a_page_whose_worker_is_killed_is_taken_up_again_and_no_device_is_written_twice(tmp_path, eventually):
    crashes = ["before 3", "after 4", "before 1"]
    with RunningCloud(tmp_path / "state", app=APP, policy=policy()) as cloud:
        plan = cloud.state / "crashes"
        plan.write_text("")
        names = [f"edge-{number:02}" for number in range(10)]
        for name in names:
            joined(cloud, name)

        def holds(name):
            return "confidential_package_release" in cloud.devices.twin(name).properties.desired

        plan.write_text("".join(f"{line}\n" for line in crashes))
        cloud.provision(KEY_NAME)
        eventually(lambda: plan.read_text() == "", seconds=300, what="all crashes")
        eventually(lambda: all(map(holds, names)), seconds=300, what="every device's key")
        eventually(lambda: is_up(cloud), seconds=300, what="the function app")
        assert [released(cloud, name) for name in names] == [{KEY_NAME: 1}] * len(names)
        versions = {name: cloud.devices.twin(name).properties.desired["$version"] for name in names}
        assert versions == dict.fromkeys(names, 2)  # a new twin's is 1: each was written once
        allowed, failed = (
            Counter(each["device_id"] for each in records(cloud, event="distribute", outcome=outcome))
            for outcome in ("allowed", "failed")
        )
        unexplained = {name: allowed[name] - failed[name] - 1 for name in names}
        assert min(unexplained.values()) >= 0  # every write stands on record
        # The rest is what was recorded and not yet written when a process died, at least the two it died on:
        # provisioning begins more than one pass, and their pages may be worked on side by side.
        assert sum(unexplained.values()) >= sum(each.startswith("before") for each in crashes)


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    """A cloud at work, with one class key."""
    with RunningCloud(tmp_path_factory.mktemp("cloud") / "state", policy=policy()) as running:
        running.provision(KEY_NAME)
        yield running


@pytest.fixture
def eventually_shown(cloud, eventually):
    """Wait until a device's state and reason are these; returns all that is shown of it."""

    def wait(device_id, state, reason=None, **more):
        def is_so():
            found = shown(cloud, device_id)
            return (found["state"], found["reason"]) == (state, reason) and all(
                found[name] == value for name, value in more.items()
            )

        eventually(is_so, seconds=120, what=f"{device_id}: {state} {reason}")
        return shown(cloud, device_id)

    return wait


def rebind(cloud, device, **options):
    fingerprint = device.public_key.fingerprint.hex()
    body = {"device_id": device.device_id, "fingerprint": fingerprint}
    return cloud.call("RebindDevice", body, **options)


def came_back_with_another_key(cloud, device_id):
    """Report another key under a device's id, as whoever has its connection string can."""
    other = Device.make(AUTHORITY, device_id)
    other.certificates_der = None
    cloud.devices.report(device_id, other.report())
    return other


@pytest.mark.timeout(600)
@pytest.mark.parametrize("device_id", ["bound-01", "bound-02/agent"])
def test_a_device_or_module_with_another_key_is_denied_until_an_operator_binds_it(
    cloud, eventually_shown, device_id
):
    if "/" in device_id:
        cloud.devices.enrol(device_id.partition("/")[0])
    first = joined(cloud, device_id)
    eventually_shown(device_id, "released")
    other = came_back_with_another_key(cloud, device_id)
    denied = eventually_shown(device_id, "denied", "key_not_bound")
    assert denied["released"]["keys"] == {}
    assert denied["released"]["fingerprint"] == first.public_key.fingerprint.hex()
    assert denied["reported_key"] == other.public_key.fingerprint.hex()

    assert rebind(cloud, other, key="provision").status_code == 401
    assert rebind(cloud, first, key="admin").json()["code"] == "fingerprint_mismatch"
    done = rebind(cloud, other, key="admin")

    assert (done.status_code, done.json()["replaces"]) == (200, first.public_key.fingerprint.hex())
    bound = eventually_shown(device_id, "released")
    assert bound["released"]["keys"] == {KEY_NAME: 1}
    assert bound["released"]["fingerprint"] == other.public_key.fingerprint.hex()
    assert "rebind" not in cloud.devices.twin(device_id).tags["confidential_packages"]


@pytest.mark.timeout(600)
def test_a_device_that_is_disabled_loses_its_keys_and_gets_them_back(cloud, eventually_shown):
    joined(cloud, "disabled-01")
    eventually_shown("disabled-01", "released")
    cloud.devices.set_status("disabled-01", "disabled")
    assert cloud.call("ReconcileDevices", {"device_ids": ["disabled-01"]}).status_code == 200
    denied = eventually_shown("disabled-01", "denied", "device_disabled", status="disabled")
    assert denied["released"]["keys"] == {}
    cloud.devices.set_status("disabled-01", "enabled")
    assert cloud.call("ReconcileDevices", {"device_ids": ["disabled-01"]}).status_code == 200
    assert eventually_shown("disabled-01", "released")["released"]["keys"] == {KEY_NAME: 1}


@pytest.mark.timeout(600)
def test_a_device_that_was_deleted_and_made_again_is_bound_to_its_new_key(cloud, eventually_shown):
    first = joined(cloud, "again-01")
    eventually_shown("again-01", "released")
    cloud.devices.delete("again-01")
    assert cloud.call("devices/again-01").json()["code"] == "device_not_found"
    second = joined(cloud, "again-01")
    told = eventually_shown("again-01", "released")
    assert told["released"]["fingerprint"] == second.public_key.fingerprint.hex()
    assert first.public_key.fingerprint != second.public_key.fingerprint
    came_back_with_another_key(cloud, "again-01")
    eventually_shown("again-01", "denied", "key_not_bound")

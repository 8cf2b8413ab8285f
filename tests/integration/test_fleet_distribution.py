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
        told = records(cloud, event="distribute", outcome="allowed")
        recorded = Counter(record["device_id"] for record in told)
        # On record twice is what was recorded and not written when the process died, and nothing else.
        assert sorted(recorded.values()) == [1] * (len(names) - 2) + [2] * 2

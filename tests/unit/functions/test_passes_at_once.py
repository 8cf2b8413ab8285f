"""Two passes over the same fleet at the same time: each twin is written once."""

from __future__ import annotations

from collections import Counter

import pytest
from simulators.cloud import APP
from simulators.meeting_registry import run_at_once

from shared.types import DeviceId

FLEET = tuple(DeviceId(f"edge-{number:02}") for number in range(6))


@pytest.mark.parametrize("passes", [2, 3])
@pytest.mark.parametrize("what", ["first release", "rotation", "revocation", "denial"])
def test_each_twin_is_written_once(cloud, passes, what):
    cloud.class_keys.provision(APP, bits=256)
    for device_id in FLEET:
        cloud.enrol(device_id)
    if what != "first release":
        assert cloud.run(*FLEET) == []
        cloud.wait(seconds=1)
    match what:
        case "rotation":
            cloud.class_keys.rotate(APP)
        case "revocation":
            cloud.class_keys.revoke(APP, 1)
        case "denial":
            for device_id in FLEET:
                cloud.registry.overwrite(device_id, "tags", {"class": "kiosk"})
    before = len(cloud.registry.writes)

    assert run_at_once(cloud, FLEET, passes=passes) == []

    written = Counter(device_id for device_id, _ in cloud.registry.writes[before:])
    assert written == dict.fromkeys(FLEET, 1)
    assert cloud.registry.conflicts == len(FLEET) * (passes - 1)


def test_what_lost_is_on_record_as_not_done(cloud, audit):
    cloud.class_keys.provision(APP, bits=256)
    for device_id in FLEET:
        cloud.enrol(device_id)
    run_at_once(cloud, FLEET, passes=2)
    outcomes = Counter((record["outcome"], record["reason"]) for record in audit())
    assert outcomes == {
        ("allowed", "first_release"): 2 * len(FLEET),
        ("failed", "twin_conflict"): len(FLEET),
    }

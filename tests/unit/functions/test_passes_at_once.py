"""Two passes over the same fleet at the same time: each twin is written once."""

from __future__ import annotations

import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest
from simulators.cloud import APP

from shared.types import DeviceId

FLEET = tuple(DeviceId(f"edge-{number:02}") for number in range(6))
SECONDS = 60


class MeetingRegistry:
    """A registry that lets nobody write a twin before all passes have read it."""

    def __init__(self, registry, passes):
        self._registry = registry
        self._lock = threading.Lock()
        self._barrier = threading.Barrier(passes)
        self._met = threading.local()
        self.conflicts = 0

    def __getattr__(self, name):
        return getattr(self._registry, name)

    def read(self, device_id):
        with self._lock:
            twin = self._registry.read(device_id)
        met = self._met.__dict__.setdefault("devices", set())
        if device_id not in met:
            met.add(device_id)
            self._barrier.wait(timeout=SECONDS)
        return twin

    def patch(self, device_id, patch, *, etag):
        with self._lock:
            try:
                self._registry.patch(device_id, patch, etag=etag)
            except Exception:
                self.conflicts += 1
                raise


def run_at_once(cloud, passes):
    """Run passes over the whole fleet, each in a thread of its own; return the devices that failed."""
    cloud.registry = MeetingRegistry(cloud.registry, passes)
    begun = [cloud.distributor.begin_pass(correlation_id=f"pass-{number}") for number in range(passes)]
    with ThreadPoolExecutor(passes) as pool:
        done = [pool.submit(each.reconcile_all, FLEET) for each in begun]
        return [device_id for each in done for device_id in each.result(timeout=SECONDS)]


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

    assert run_at_once(cloud, passes) == []

    written = Counter(device_id for device_id, _ in cloud.registry.writes[before:])
    assert written == dict.fromkeys(FLEET, 1)
    assert cloud.registry.conflicts == len(FLEET) * (passes - 1)


def test_what_lost_is_on_record_as_not_done(cloud, audit):
    cloud.class_keys.provision(APP, bits=256)
    for device_id in FLEET:
        cloud.enrol(device_id)
    run_at_once(cloud, 2)
    outcomes = Counter((record["outcome"], record["reason"]) for record in audit())
    assert outcomes == {
        ("allowed", "first_release"): 2 * len(FLEET),
        ("failed", "twin_conflict"): len(FLEET),
    }

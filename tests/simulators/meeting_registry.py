"""Passes that meet: nobody writes a twin before all of them have read it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from simulators.registry import MemoryRegistry

from shared.errors import Conflict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simulators.cloud import Cloud

    from shared.types import DeviceId

SECONDS = 120


class MeetingRegistry:
    """A registry of twins for so many passes.

    Attributes:
        conflicts: How many writes were refused.
    """

    def __init__(self, registry, passes: int) -> None:
        self._registry = registry
        self._barrier = threading.Barrier(passes)
        self._met = threading.local()
        self._count = threading.Lock()
        in_memory = isinstance(registry, MemoryRegistry)  # which is not made for threads, as a hub is
        self._alone: AbstractContextManager = threading.Lock() if in_memory else nullcontext()
        self.conflicts = 0

    def __getattr__(self, name: str):
        return getattr(self._registry, name)

    def read(self, device_id: DeviceId):
        with self._alone:
            twin = self._registry.read(device_id)
        met = self._met.__dict__.setdefault("devices", set())
        if device_id not in met:
            met.add(device_id)
            self._barrier.wait(timeout=SECONDS)
        return twin

    def patch(self, device_id: DeviceId, patch, *, etag: str) -> None:
        try:
            with self._alone:
                self._registry.patch(device_id, patch, etag=etag)
        except Conflict:
            with self._count:
                self.conflicts += 1
            raise


def run_at_once(cloud: Cloud, devices: Sequence[DeviceId], *, passes: int) -> list[DeviceId]:
    """Run passes over these devices, each in a thread of its own; return the devices that failed."""
    cloud.registry = MeetingRegistry(cloud.registry, passes)
    begun = [cloud.distributor.begin_pass(correlation_id=f"pass-{number}") for number in range(passes)]
    with ThreadPoolExecutor(passes) as pool:
        done = [pool.submit(each.reconcile_all, devices) for each in begun]
        return [device_id for each in done for device_id in each.result(timeout=SECONDS)]

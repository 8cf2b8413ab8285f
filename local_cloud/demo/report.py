"""What the demonstration found, as a value and as the JSON that ``--json`` writes."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord:
    """One step: its name, how long it took, whether it did what it should."""

    name: str
    seconds: float
    ok: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRecord:
    """A device's final state, as the twin and its confidential package manager tell it.

    Attributes:
        state: ``released``, ``denied``, … from the twin's tag.
        reason: Why it was denied, from the same tag.
        keys: Newest held version of each class key.
        packages: Version of each installed package.
        accuracy: Share of the held-out images that the installed workload got right, if it was run.
    """

    state: str
    reason: str | None
    keys: Mapping[str, int]
    packages: Mapping[str, str]
    accuracy: float | None


@dataclass(slots=True, kw_only=True)
class Report:
    """Filled step by step while the demonstration runs.

    Attributes:
        steps: In the order in which they ran.
        times_to_key_ms: From a device's report of its key to the class key in its package manager.
        devices: By device id.
        leaks_found: None until files were scanned.
    """

    steps: list[StepRecord] = field(default_factory=list)
    times_to_key_ms: list[float] = field(default_factory=list)
    devices: dict[str, DeviceRecord] = field(default_factory=dict)
    leaks_found: int | None = None

    def to_json(self) -> str:
        """Return the report as one JSON document, ending in a newline."""
        document = {
            "steps": [
                {"name": step.name, "seconds": round(step.seconds, 3), "ok": step.ok} for step in self.steps
            ],
            "time_to_key_ms": {
                "n": len(self.times_to_key_ms),
                "p50": percentile(self.times_to_key_ms, 50),
                "p99": percentile(self.times_to_key_ms, 99),
            },
            "devices": {
                device_id: {
                    "state": device.state,
                    "reason": device.reason,
                    "keys": dict(device.keys),
                    "packages": dict(device.packages),
                    "accuracy": device.accuracy,
                }
                for device_id, device in self.devices.items()
            },
            "leaks_found": self.leaks_found,
        }
        return json.dumps(document, indent=2) + "\n"


def percentile(values: Sequence[float], percent: int) -> float | None:
    """Return the nearest-rank percentile, rounded to a tenth: always one of the values; None without any.

    Args:
        values: In any order.
        percent: 1 to 100.
    """
    if not values:
        return None
    rank = math.ceil(len(values) * percent / 100)
    return round(sorted(values)[rank - 1], 1)

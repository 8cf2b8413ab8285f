"""What the steps look at: the twin, the package manager, the logs, the files. Everything here only reads.

A look returns None while something has not come about yet, and raises when it never may be.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from local_cloud.demo.build_machine import KEY_NAME
from local_cloud.demo.leaks import LeakSearch
from local_cloud.demo.report import DeviceRecord
from shared.errors import VerificationError
from shared.keys.kcv import key_check_value
from shared.keys.wrapping import WrapContext
from shared.types import Audience, KeyName

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterable, Mapping, Sequence
    from pathlib import Path

    from local_cloud.demo.device import Device, Event
    from local_cloud.demo.leaks import ScanResult
    from local_cloud.demo.world import World

Images = list[dict[str, Any]]
"""Images with ``id``, ``pixels`` and true ``label``."""


def acknowledged_key(world: World, device: Device, *, version: int) -> tuple[str, str] | None:
    """Return the wrapped key that a device was sent and the check value that it answered with.

    Raises:
        VerificationError: The check value is not the class key's.
    """
    twin = device.twin()
    answer, wrapped = twin.acknowledged(KEY_NAME), twin.wrapped_key(KEY_NAME)
    if twin.outcome[0] != "released" or wrapped is None:
        return None
    if answer.get("ver") != version or answer.get("state") != "installed":
        return None
    context = WrapContext(
        audience=Audience(world.cloud.audience),
        device_id=device.device_id,
        name=KeyName(KEY_NAME),
        version=version,
    )
    expected = key_check_value(world.class_keys[version], context=context).hex()
    if answer.get("kcv") != expected:
        raise VerificationError(
            f"{device.device_id}: expected check value {expected}, found {answer.get('kcv')}"
        )
    return wrapped, expected


def denial(device: Device) -> str | None:
    """Return why a device was denied, from its twin's tags.

    Raises:
        VerificationError: It was released keys.
    """
    state, reason = device.twin().outcome
    if state == "released":
        raise VerificationError(f"{device.device_id}: expected to be denied, was released keys")
    return str(reason) if state == "denied" else None


def audit_of_denial(device: Device) -> Mapping[str, Any] | None:
    """Return the first line of the function app's audit log that denies a device."""
    lines = device.cloud.audit_lines(device.device_id)
    return next((line for line in lines if line.get("outcome") == "denied"), None)


def floor_reached(device: Device, *, floor: int) -> bool | None:
    """Return True once a device's package manager takes no version of the class key below ``floor``."""
    return True if device.status()["floors"].get(KEY_NAME) == floor else None


def time_to_key_ms(events: Sequence[Event], *, asked_at: dt.datetime) -> float | None:
    """Return how long a device waited for its first class key, from its agent's log.

    It begins when the device reported its key, or when the class key was asked for if that came later, and
    ends when the agent's package manager had applied the release.

    Args:
        events: The agent's log, oldest first.
        asked_at: When the class key was asked for, on this machine's clock, which is the agents' too.

    Returns:
        Milliseconds; None if an agent was killed just then and the log does not say.
    """
    reported: dt.datetime | None = None
    for event in events:
        if event.name == "key_reported":
            reported = event.at
        elif event.name == "release_applied" and KEY_NAME in event.fields.get("keys", {}):
            if reported is None:
                return None
            waited: dt.timedelta = event.at - max(reported, asked_at)
            return waited.total_seconds() * 1000
    return None


def classify(device: Device, images: Images) -> list[int]:
    """Have a device's workload classify images; it does not get to see the labels.

    Raises:
        VerificationError: It did not answer for each image.
    """
    asked = [json.dumps({"id": image["id"], "pixels": image["pixels"]}) + "\n" for image in images]
    answers = [json.loads(line) for line in device.run(KEY_NAME, stdin="".join(asked)).splitlines()]
    if [answer["id"] for answer in answers] != [image["id"] for image in images]:
        raise VerificationError(f"{device.device_id}: expected {len(images)} answers, found {len(answers)}")
    return [answer["prediction"] for answer in answers]


def accuracy(predictions: Sequence[int], images: Images) -> float:
    """Return the share of predictions that are the true label."""
    right = sum(1 for found, image in zip(predictions, images, strict=True) if found == image["label"])
    return round(right / len(images), 4)


def load_images(path: Path) -> Images:
    """Read images from JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def scan(world: World) -> ScanResult:
    """Look for the class keys, the model and the workloads in all of the demonstration's files.

    Passed over is the build machine's source folder alone, where they must stand in clear.
    """
    documents = {"model": (world.build_machine.example / "model" / "weights.bin").read_bytes()}
    documents |= {path.name: path.read_bytes() for path in _files(world.workspace.source)}
    search = LeakSearch(
        keys={f"{KEY_NAME} version {version}": key.reveal() for version, key in world.class_keys.items()},
        documents=documents,
    )
    return search.scan(world.workspace.root, exclude=[world.workspace.source])


def record(world: World, device: Device) -> DeviceRecord:
    """Return a device's state as its twin and its package manager tell it now."""
    state, reason = device.twin().outcome
    installed = device.status()["packages"]
    return DeviceRecord(
        state=state or "unknown",
        reason=reason,
        keys=device.newest_keys(),
        packages={application: package["version"] for application, package in installed.items()},
        accuracy=world.accuracy.get(device.device_id),
    )


def _files(folder: Path) -> Iterable[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file())

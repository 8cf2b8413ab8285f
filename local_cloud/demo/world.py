"""What the story happens in, put together once by :mod:`local_cloud.demo.main`."""

from __future__ import annotations

import threading
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable

    from local_cloud.demo.build_machine import BuildMachine
    from local_cloud.demo.cloud import Cloud
    from local_cloud.demo.commands import Commands
    from local_cloud.demo.device import Device
    from local_cloud.demo.processes import Processes
    from local_cloud.demo.report import Report
    from local_cloud.demo.workspace import Workspace
    from shared.types import Secret

T = TypeVar("T")

_SPELL_SECONDS = 1.0


@dataclass(slots=True, kw_only=True)
class World:
    """The machines, and what the story learns about them on the way.

    Attributes:
        edges: The genuine devices.
        rogue: The one whose certificate is self-made.
        report: Steps, times and leaks, as they become known.
        asked_for_key_at: When the class key was asked for.
        class_keys: By version, as the build machine got them; only to look for them in files.
        accuracy: Share of held-out images that each device got right, by device id.
    """

    workspace: Workspace
    processes: Processes
    commands: Commands
    cloud: Cloud
    build_machine: BuildMachine
    edges: tuple[Device, ...]
    rogue: Device
    report: Report
    asked_for_key_at: dt.datetime | None = None
    class_keys: dict[int, Secret] = field(default_factory=dict)
    accuracy: dict[str, float] = field(default_factory=dict)

    @property
    def devices(self) -> tuple[Device, ...]:
        """All devices."""
        return (*self.edges, self.rogue)


def on_each(devices: tuple[Device, ...], act: Callable[[Device], T]) -> list[T]:
    """Do the same on every device at once, and return the results in order.

    The first device's fault is raised as soon as it is known. Threads are daemons: whoever interrupts the
    demonstration does not wait for a device that does not answer.
    """
    results = [_started(act, device) for device in devices]
    return [_awaited(result) for result in results]


def _awaited(result: Future[T]) -> T:
    """Return a result, waiting in short spells: a signal that comes as a spell begins is seen at its end."""
    while not wait([result], timeout=_SPELL_SECONDS).done:
        pass
    return result.result()


def _started(act: Callable[[Device], T], device: Device) -> Future[T]:
    result: Future[T] = Future()

    def work() -> None:
        try:
            result.set_result(act(device))
        except Exception as error:  # noqa: BLE001 - raised again in the thread that asks for the result
            result.set_exception(error)

    threading.Thread(target=work, name=device.device_id, daemon=True).start()
    return result

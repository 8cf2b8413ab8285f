"""A hub with one device behind the port :class:`~device_agent.twin_link.TwinLink`: no thread, no I/O."""

from __future__ import annotations

from collections import deque
from copy import deepcopy
from typing import TYPE_CHECKING

from device_agent.twin_link import DesiredPatch, LinkChanged, Notify, Twin, parse_twin
from shared.errors import EdbError, TransportError
from shared.twin.sections import apply_patch

if TYPE_CHECKING:
    from collections.abc import Mapping
from shared.types import DeviceId


class SimulatedLink:
    """The device's connection and the hub's end of it in one.

    The hub's side writes desired properties with :meth:`desire`, takes the hub away with :meth:`go_away` and
    brings it back with :meth:`come_back`; ``calls`` tells what the agent did, in order.
    """

    def __init__(self, device_id: str = "edge-01") -> None:
        self.device_id = DeviceId(device_id)
        self.desired: dict[str, object] = {}
        self.desired_version = 1
        self.reported: dict[str, object] = {}
        self.reported_version = 1
        self.calls: list[str] = []
        self.patches: list[dict[str, object]] = []
        self.faults: deque[EdbError | None] = deque()
        self._reachable = True
        self._connected = False
        self._notify: Notify | None = None
        self._lost_patches = 0

    # What the agent sees

    @property
    def connected(self) -> bool:
        return self._connected

    def connect(self, notify: Notify) -> None:
        self.calls.append("connect")
        self._fail_if_told()
        if not self._reachable:
            raise TransportError("connecting: refused")
        self._connected, self._notify = True, notify

    def get_twin(self) -> Twin:
        self.calls.append("get_twin")
        self._require_connection()
        self._fail_if_told()
        return parse_twin(
            {
                "desired": {**deepcopy(self.desired), "$version": self.desired_version, "$metadata": {}},
                "reported": {**deepcopy(self.reported), "$version": self.reported_version},
            }
        )

    def patch_reported(self, patch: Mapping[str, object]) -> None:
        self.calls.append("patch_reported")
        self._require_connection()
        self._fail_if_told()
        self.patches.append(deepcopy(dict(patch)))
        self.reported = apply_patch(self.reported, patch)
        self.reported_version += 1

    def disconnect(self) -> None:
        self._connected, self._notify = False, None

    # What the hub does

    def desire(self, patch: Mapping[str, object], *, push: bool = True) -> dict[str, object]:
        """Write desired properties and return what is pushed; without ``push`` the device misses it."""
        self.desired = apply_patch(self.desired, patch)
        self.desired_version += 1
        body = {**deepcopy(dict(patch)), "$version": self.desired_version}
        if push:
            self.push(body)
        return body

    def push(self, body: object) -> None:
        """Send a desired patch as it is."""
        if self._notify is not None:
            self._notify(DesiredPatch(document=body))

    def go_away(self) -> None:
        """End the connection and refuse new ones."""
        notify, self._notify = self._notify, None
        self._reachable = self._connected = False
        if notify is not None:
            notify(LinkChanged())

    def come_back(self) -> None:
        """Take connections again."""
        self._reachable = True

    def fail_next(self, *errors: EdbError | None) -> None:
        """Answer the next calls with these errors; None lets a call through."""
        self.faults.extend(errors)

    def _fail_if_told(self) -> None:
        if self.faults and (error := self.faults.popleft()) is not None:
            raise error

    def _require_connection(self) -> None:
        if not self._connected:
            raise TransportError("not connected to the hub")

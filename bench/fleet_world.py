"""What stands around the function app while it is measured: hub, vault and audit storage.

What others do is counted, and their CPU time kept apart: what is measured is the function app's. What crosses
between the app and the hub does so as JSON text, as it would on the wire: the app pays for reading and
writing its part of it.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from functions.adapters.iot_hub import ROW_QUERIES, read_row
from shared.policy.document import Policy, load_policy
from shared.twin.documents import KEYS
from shared.twin.ports import RowPage, Twin

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from simulators.audit_segments import MemorySegments

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric import ec
    from fleet_hub import HubProcess

    from shared.types import DeviceId


class Meter:
    """What is not the function app's: seconds of CPU and wall time, bytes and calls."""

    def __init__(self) -> None:
        self.cpu = self.wall = 0.0
        self.calls: dict[str, int] = {}
        self.bytes_read = self.bytes_written = self.wrapped = 0

    @contextmanager
    def part(self) -> Iterator[None]:
        """Take what is done within for another's."""
        cpu, wall = time.process_time(), time.perf_counter()
        try:
            yield
        finally:
            self.cpu += time.process_time() - cpu
            self.wall += time.perf_counter() - wall

    def count(self, call: str, *, times: int = 1, read: int = 0, written: int = 0) -> None:
        self.calls[call] = self.calls.get(call, 0) + times
        self.bytes_read += read
        self.bytes_written += written

    def reset(self) -> None:
        self.__init__()  # type: ignore[misc] # all of it begins anew


class StoreRegistry:
    """What distribution asks of a :class:`shared.twin.ports.TwinRegistry`, over a hub's store.

    Twins are fetched before the steps of many devices and patches sent after them, and not between them,
    where that would empty the processor's caches for each device.

    Attributes:
        discards: Whether patches are dropped, so that this process grows by what the app keeps alone.
    """

    def __init__(self, hub: HubProcess, meter: Meter) -> None:
        self.discards = False
        self._hub = hub
        self._meter = meter
        self._answers: dict[DeviceId, str] = {}
        self._writes: list[tuple[DeviceId, str, str]] = []

    @contextmanager
    def serving(self, devices: Sequence[DeviceId]) -> Iterator[None]:
        """Answer reads of these devices' twins, once each, and take their patches."""
        with self._meter.part():
            self._answers = self._hub.answers(devices)
            gc.freeze()  # they are not for the app's collector to walk through
        yield
        with self._meter.part():
            for _, text, _ in self._writes:
                keys = json.loads(text).get("properties", {}).get("desired", {}).get(KEYS, {})
                self._meter.wrapped += len(keys) - list(keys.values()).count(None)
            if not self.discards:
                self._hub.take(self._writes)
            self._answers.clear()
            self._writes.clear()

    def read(self, device_id: DeviceId) -> Twin:
        text = self._answers.pop(device_id)
        self._meter.count("twin reads", read=len(text))
        document = json.loads(text)
        properties = document["properties"]
        return Twin(
            device_id=device_id,
            etag=document["etag"],
            status=document["status"],
            tags=document["tags"],
            desired=properties["desired"],
            reported=properties["reported"],
        )

    def patch(self, device_id: DeviceId, patch: Mapping[str, object], *, etag: str) -> None:
        text = json.dumps(patch)
        self._meter.count("twin writes", written=len(text))
        self._writes.append((device_id, text, etag))

    def rows(self, *, token: str | None) -> RowPage:
        with self._meter.part():
            text, following = self._hub.page(ROW_QUERIES["devices"], token)
        self._meter.count("query pages", read=len(text))
        return RowPage(rows=[read_row(row, ()) for row in json.loads(text)], next_token=following)


class MeteredSigner:
    """A release signer whose signing is the vault's work."""

    def __init__(self, signer: Any, meter: Meter) -> None:  # noqa: ANN401 - the tests' simulator
        self._signer, self._meter = signer, meter

    def key_id(self) -> str:
        return str(self._signer.key_id())

    def public_keys(self) -> Sequence[ec.EllipticCurvePublicKey]:
        keys: Sequence[ec.EllipticCurvePublicKey] = self._signer.public_keys()
        return keys

    def sign(self, digest: bytes, *, key_id: str) -> bytes:
        with self._meter.part():
            return bytes(self._signer.sign(digest, key_id=key_id))


class LastSegment(MemorySegments):
    """An audit store that keeps the last segment alone, and whose part is another's."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self._meter = meter

    def create(self, name: str) -> None:
        with self._meter.part():
            self.segments.clear()
            super().create(name)

    def append(self, name: str, data: bytes, *, offset: int) -> None:
        with self._meter.part():
            super().append(name, data, offset=offset)
            self._meter.count("audit records", times=data.count(b"\n"))


def fleet_policy(root_sha256: str) -> Policy:
    """Return a policy that lets certified gateways have every key."""
    conditions = [
        {"claim": "hub.tags.class", "equals": "gateway"},
        {"claim": "hub.status", "equals": "enabled"},
        {"claim": "x509.chain_root_sha256", "equals": root_sha256},
        {"claim": "x509.device_id_matches", "equals": True},
        {"claim": "x509.key_matches", "equals": True},
    ]
    rule = {
        "id": "gateways",
        "keys": ["*"],
        "operations": ["distribute"],
        "algorithms": ["RSA-OAEP-256"],
        "release": {"allOf": conditions},
    }
    document = {"version": "1.0.0", "id": "bench", "serial": 1, "rules": [rule]}
    return load_policy(json.dumps(document).encode(), where="policy")

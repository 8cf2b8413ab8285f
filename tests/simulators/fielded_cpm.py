"""The CPM's own judgement of releases over software custody, without its process, store and socket."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from cpm import keyring
from cpm.clock import ProvenClock
from cpm.custody.software import SoftwareCustody
from cpm.custody.storage_root import ROOT_BYTES, StorageRoot
from cpm.state import State
from shared.twin.documents import KeyReport, parse_desired
from shared.types import Audience, DeviceId, KeyName, Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric import ec


class FieldedCpm:
    """A device's CPM, as far as it takes releases; ``state`` is what it remembers.

    Args:
        device_id: The device.
        audience: The deployment.
        private_key: The device key.
        release_keys: Those that are pinned.
        clock: Unix seconds.
    """

    def __init__(
        self,
        device_id: str,
        audience: str,
        private_key,
        release_keys: Sequence[ec.EllipticCurvePublicKey],
        clock: Callable[[], int],
    ) -> None:
        root = StorageRoot(Secret(os.urandom(ROOT_BYTES)))
        self.custody = SoftwareCustody(folder=Path(), root=root, device_key=private_key, fresh=False)
        self.state = State(audience=Audience(audience), device_id=DeviceId(device_id))
        self._release_keys, self._clock = release_keys, ProvenClock(clock)

    def apply(self, desired: Mapping[str, object]) -> None:
        """Take what a twin's desired holds.

        Raises:
            EdbError: It is refused; nothing changed.
        """
        parsed = parse_desired(desired)
        assert parsed.release is not None
        self.state = keyring.apply_release(
            self.state,
            parsed.release,
            parsed.wrapped,
            release_keys=self._release_keys,
            custody=self.custody,
            clock=self._clock,
        ).state

    def versions(self, name: KeyName) -> list[int]:
        """Return the versions of a class key that are held."""
        return [held.version for held in self.state.keys.get(name, ())]

    def reports(self) -> dict[KeyName, KeyReport]:
        """Return what an agent reports of the class keys that are held: the newest version of each."""
        return {
            name: KeyReport(
                version=held[-1].version,
                state="installed",
                kcv=keyring.check_value(self.state, name, held[-1]),
            )
            for name, held in self.state.keys.items()
        }

"""Device agents in threads of this process: the real agent and SDK, over a CPM of the real rules."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from simulators.campaign.devices import MemoryCustody

from cpm.clock import ProvenClock
from cpm.keyring import apply_release, check_value
from cpm.state import State
from device_agent.adapters.iot_hub_device import IotHubDevice
from device_agent.certificate import CertificateFile
from device_agent.cpm_client import AppliedRelease, CpmStatus, DeviceKey, HeldKey
from device_agent.inbox import Inbox
from device_agent.state import StateFolder
from device_agent.sync import Agent
from device_agent.twin_link import LinkChanged
from shared.types import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from cryptography.hazmat.primitives.asymmetric import ec

    from shared.types import Audience, DeviceId, KeyName

_CLOSE_SECONDS = 60


class KeyringCpm:
    """A :class:`device_agent.cpm_client.CpmClient` over the CPM's own rules for class keys.

    Attributes:
        state: What it remembers.
        sequences: Of the releases that it applied, in order.
    """

    judges_releases = True

    def __init__(
        self, device_id: DeviceId, audience: Audience, release_keys: Sequence[ec.EllipticCurvePublicKey]
    ) -> None:
        self.custody = MemoryCustody("p256")
        self.state = State(audience=audience, device_id=device_id)
        self.sequences: list[int] = []
        self._release_keys, self._clock = release_keys, ProvenClock()

    def identify(self) -> DeviceKey:
        key = self.custody.public_key
        return DeviceKey(spki=key.spki, fingerprint=key.fingerprint, algorithms=self.custody.algorithms)

    def status(self) -> CpmStatus:
        state = self.state
        return CpmStatus(
            device_id=state.device_id,
            fingerprint=self.custody.public_key.fingerprint,
            sequence=state.sequence,
            keys={
                name: HeldKey(version=versions[-1].version, kcv=check_value(state, name, versions[-1]))
                for name, versions in state.keys.items()
            },
            packages={},
        )

    def apply_release(self, release: bytes, wrapped: Mapping[KeyName, bytes]) -> AppliedRelease:
        applied = apply_release(
            self.state,
            release,
            wrapped,
            release_keys=self._release_keys,
            custody=self.custody,
            clock=self._clock,
        )
        if applied.changed:
            self.sequences.append(applied.release.sequence)
        self.state = applied.state
        versions = {name: key.version for name, key in applied.release.keys.items()}
        return AppliedRelease(sequence=applied.release.sequence, applied=applied.changed, versions=versions)

    def install_application_key(self, name: KeyName, wrapped: bytes) -> None:
        raise AssertionError(f"{name}: nobody here speaks version 1 of the protocol")

    def install_package(self, package: Path) -> None:
        raise AssertionError(f"{package}: nobody here installs packages")


class AgentThread:
    """One device's agent at work, until it is closed."""

    def __init__(
        self, cpm: KeyringCpm, folder: Path, *, connection_string: str, ca_pem: str, certificate: Path
    ) -> None:
        self.cpm = cpm
        self._link = IotHubDevice.from_connection_string(
            Secret(connection_string.encode()), device_id=cpm.state.device_id, ca_pem=ca_pem
        )
        self._inbox, self._ends = Inbox(), threading.Event()
        self._state = StateFolder(folder)
        self._agent = Agent(
            link=self._link,
            cpm=cpm,
            certificate=CertificateFile(certificate),
            state=self._state,
            notify=self._inbox.put,
        )
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=f"agent {cpm.state.device_id}", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            while not self._ends.is_set():
                self._agent.advance()
                event = self._inbox.get(self._agent.seconds_to_wait())
                while event is not None:
                    self._agent.handle(event)
                    event = self._inbox.get(0)
        except BaseException as error:  # told by the test that looks at it
            self.failure = error
            raise

    def stop(self) -> None:
        """Have it end, and do not wait."""
        self._ends.set()
        self._inbox.put(LinkChanged())

    def close(self) -> None:
        self.stop()
        self._thread.join(_CLOSE_SECONDS)
        self._link.close(seconds=_CLOSE_SECONDS)
        self._state.close()

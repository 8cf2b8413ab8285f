"""A package manager behind the agent's port :class:`~device_agent.cpm_client.CpmClient`; it does as told.

It judges releases by their sequence and fingerprint alone: signatures and wrapping are the real CPM's affair.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from device_agent.cpm_client import AppliedRelease, CpmStatus, DeviceKey, HeldKey, HeldPackage
from shared.errors import EdbError, FormatError, TransportError, VerificationError
from shared.release.document import Release, ReleasedKey, assemble, encode_claims, parse_release
from shared.types import Audience, DeviceId, Fingerprint, KeyName, WrapAlgorithm

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


def device_key(seed: str = "first") -> DeviceKey:
    """Return a device key whose bytes are no key: the agent only carries them."""
    spki = hashlib.sha256(seed.encode()).digest() * 2
    return DeviceKey(
        spki=spki,
        fingerprint=Fingerprint(hashlib.sha256(spki).digest()),
        algorithms=(WrapAlgorithm.RSA_OAEP_256, WrapAlgorithm.HPKE_P256),
    )


def release_for(
    key: DeviceKey, sequence: int, versions: Mapping[str, int], device_id: str = "edge-01"
) -> bytes:
    """Return a release for a device key, well formed and unsigned."""
    claims = encode_claims(
        Release(
            device_id=DeviceId(device_id),
            audience=Audience("test"),
            issued_at=1_800_000_000,
            expires_at=1_900_000_000,
            sequence=sequence,
            fingerprint=key.fingerprint,
            keys={
                KeyName(name): ReleasedKey(
                    version=version,
                    algorithm=WrapAlgorithm.RSA_OAEP_256,
                    not_after=1_900_000_000,
                    wrapped_sha256=hashlib.sha256(b"wrapped").digest(),
                )
                for name, version in versions.items()
            },
            floors={},
            policy_sha256=bytes(32),
        )
    )
    return assemble(claims, kid="release-key/1", signature=bytes(64))


@dataclass
class ScriptedCpm:
    """A CPM. ``away`` takes it away, ``refusals`` are what it answers next, ``key`` is its device key."""

    key: DeviceKey = field(default_factory=device_key)
    device_id: str = "edge-01"
    away: bool = False
    sequence: int = 0
    held: dict[KeyName, HeldKey] = field(default_factory=dict)
    packages: dict[str, HeldPackage] = field(default_factory=dict)
    refusals: list[EdbError] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    def _enter(self, call: str) -> None:
        self.calls.append(call)
        if self.away:
            raise TransportError("no cpm at cpm.sock: connection refused", code="cpm_unavailable")

    @property
    def judges_releases(self) -> bool:
        return True

    def identify(self) -> DeviceKey:
        self._enter("identify")
        return self.key

    def status(self) -> CpmStatus:
        self._enter("status")
        return CpmStatus(
            device_id=self.device_id,
            fingerprint=self.key.fingerprint,
            sequence=self.sequence,
            keys=dict(self.held),
            packages=dict(self.packages),
        )

    def apply_release(self, release: bytes, wrapped: Mapping[KeyName, bytes]) -> AppliedRelease:
        self._enter("apply_release")
        self._refuse_if_told()
        stated = parse_release(release, where="release").release
        if stated.fingerprint != self.key.fingerprint:
            raise VerificationError("the release is for another key", code="key_mismatch")
        if stated.sequence < self.sequence:
            raise VerificationError("the release is older than the last one", code="replay")
        applied = stated.sequence > self.sequence
        self.sequence = stated.sequence
        self.held = {
            name: HeldKey(version=key.version, kcv=bytes([key.version]) * 16)
            for name, key in stated.keys.items()
            if name in wrapped
        }
        return AppliedRelease(
            sequence=self.sequence,
            applied=applied,
            versions={name: key.version for name, key in stated.keys.items()},
        )

    def install_application_key(self, name: KeyName, wrapped: bytes) -> None:
        self._enter("install_application_key")
        self._refuse_if_told()
        self.held[name] = HeldKey(version=1, kcv=wrapped[:16].ljust(16, b"\0"))

    def install_package(self, package: Path) -> None:
        self._enter("install_package")
        self._refuse_if_told()
        if not package.is_file():
            raise FormatError(f"{package}: cannot be read")
        self.packages[package.stem] = HeldPackage(version="1.0.0", state="installed")

    def _refuse_if_told(self) -> None:
        if self.refusals:
            raise self.refusals.pop(0)

    def forget(self) -> None:
        """Lose the store, as a CPM on a fresh disk."""
        self.sequence, self.held = 0, {}

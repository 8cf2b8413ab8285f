"""The function app on simulators: real cryptography, no hub, no vault, a clock turned by hand."""

from __future__ import annotations

import datetime as dt

from simulators.audit_segments import MemorySegments
from simulators.fleet import NOW, Authority, Device, make_policy
from simulators.policy_floor import MemoryFloor
from simulators.registry import MemoryRegistry
from simulators.vault import MemoryClassKeyStore, SoftwareKek, SoftwareSigner

from functions.audit import AuditLog
from functions.audit_chain import AuditChain
from functions.class_keys import ClassKeys
from functions.distribute import Distributor
from shared.release.verifying import verify_signature
from shared.twin.documents import parse_desired
from shared.twin.settled import NOTE
from shared.types import Audience, DeviceId, KeyName

AUDIENCE = Audience("fleet-a")
APP = KeyName("my_confidential_app")


class Cloud:
    """All of it; ``at`` is now."""

    def __init__(self, **policy_changes) -> None:
        self.at = NOW
        self.authority = Authority()
        self.registry = MemoryRegistry()
        self.store = MemoryClassKeyStore(now=lambda: self.at)
        self.kek = SoftwareKek()
        self.signer = SoftwareSigner()
        self.class_keys = ClassKeys(self.store, self.kek, monotonic=self.seconds)
        self.segments = MemorySegments()
        self.floor = MemoryFloor()
        self.policy = make_policy(self.authority.root_sha256, **policy_changes)

    @property
    def distributor(self) -> Distributor:
        return Distributor(
            registry=self.registry,
            class_keys=self.class_keys,
            signer=self.signer,
            audience=AUDIENCE,
            policy=self.policy,
            audit=AuditLog(AuditChain(self.segments, pause=lambda _: None), now=lambda: self.at),
            trust=self.authority.trust,
            now=lambda: self.at,
            renewed=lambda: self.distributor,
        )

    def enrol(self, device_id: str = "edge-01", *, kind: str = "x25519", status=None, **validity) -> Device:
        """Enrol a gateway that has reported everything."""
        device = Device.make(self.authority, device_id, kind=kind, **validity)
        self.registry.enrol(device_id, tags={"class": "gateway"})
        self.registry.report(device_id, device.report(**(status or {})))
        return device

    def seconds(self) -> float:
        return self.at.timestamp()

    def wait(self, **delta: float) -> None:
        self.at += dt.timedelta(**delta)

    def run(self, *device_ids: str) -> list[DeviceId]:
        """Make a pass over these devices, or over all that are not settled; return those that failed."""
        one_pass = self.distributor.begin_pass(correlation_id="test")
        if device_ids:
            return one_pass.reconcile_all(map(DeviceId, device_ids))
        failed, token = [], None
        while True:
            page = self.registry.rows(token=token)
            failed += one_pass.reconcile_all(one_pass.unsettled(page.rows))
            token = page.next_token
            if token is None:
                return failed

    def tag(self, device_id: str = "edge-01") -> dict[str, object] | None:
        """Return a device's outcome tag, without the note of what it hung on."""
        tag = self.registry.snapshot(device_id)["tags"].get("confidential_packages")
        return tag and {name: value for name, value in tag.items() if name != NOTE}

    def wrapped(self, device_id: str = "edge-01"):
        return parse_desired(self.registry.snapshot(device_id)["desired"]).wrapped

    def release(self, device_id: str = "edge-01"):
        """Return the verified release that a device's desired holds."""
        cose = parse_desired(self.registry.snapshot(device_id)["desired"]).release
        assert cose is not None
        return verify_signature(cose, self.signer.public_keys(), where="desired")

    def acknowledge(self, device: Device, **changes) -> None:
        """Let a device report that it applied the release in its desired."""
        release = self.release(device.device_id)
        status = device.status(**{"sequence": release.sequence, **changes})
        self.registry.report(device.device_id, status)

"""The function app over a seeded fleet, and the bare cryptography of the same devices beside it."""

from __future__ import annotations

import os
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509 import BasicConstraints, load_der_x509_certificate, verification
from fleet_hub import HubProcess
from fleet_world import LastSegment, Meter, MeteredSigner, StoreRegistry, fleet_policy

from functions.audit import AuditLog
from functions.audit_chain import AuditChain
from functions.class_keys import ClassKeys
from functions.distribute import Distributor
from shared.certificate_paths import TrustStore
from shared.types import Audience, KeyName

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from simulators.vault import MemoryClassKeyStore, SoftwareKek, SoftwareSigner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from cryptography.x509 import Certificate

    from shared.types import DeviceId

BATCH = 100
"""Devices of one queue message."""

SERVED = 1000
"""Devices whose twins the hub hands out, and takes back, at a time."""

BARE_DEVICES = 300
"""Devices whose cryptography alone is done beside each part of a distribution."""


class Fleet:
    """A seeded fleet and the function app over it."""

    def __init__(self, folder: Path, count: int) -> None:
        self.hub = HubProcess(folder / f"hub-{os.getpid()}-{count}.db", count)
        self.devices = self.hub.device_ids()
        root_der, issuer_der = self.hub.issuers()
        root = load_der_x509_certificate(root_der)
        self.meter = Meter()
        self.registry = StoreRegistry(self.hub, self.meter)
        self.store, self.kek, self.signer = MemoryClassKeyStore(), SoftwareKek(), SoftwareSigner()
        self.class_keys = ClassKeys(self.store, self.kek)
        self.bare = BareCryptography(root, issuer_der, self.hub.identities(BARE_DEVICES))
        self.distributor = Distributor(
            registry=self.registry,
            class_keys=self.class_keys,
            signer=MeteredSigner(self.signer, self.meter),
            audience=Audience("bench"),
            policy=fleet_policy(root.fingerprint(hashes.SHA256()).hex()),
            audit=AuditLog(AuditChain(LastSegment(self.meter)), now=lambda: datetime.now(UTC)),
            trust=TrustStore(roots=(root,)),
            now=lambda: datetime.now(UTC),
            renewed=lambda: self.distributor,
        )

    def provision(self, numbers: range) -> list[KeyName]:
        names = [KeyName(f"app-{number}") for number in numbers]
        for name in names:
            self.class_keys.provision(name, bits=256)
        return names

    def look(self) -> list[DeviceId]:
        """List the fleet as a pass does; return who is not settled."""
        one_pass = self.distributor.begin_pass(correlation_id="bench")
        token, found = None, []
        while True:
            page = self.registry.rows(token=token)
            found += one_pass.unsettled(page.rows)
            token = page.next_token
            if token is None:
                return found

    def step(self, devices: Sequence[DeviceId]) -> None:
        """Reconcile devices as the queue's workers do, message by message."""
        for start in range(0, len(devices), SERVED):
            served = devices[start : start + SERVED]
            with self.registry.serving(served):
                for message in range(0, len(served), BATCH):
                    one_pass = self.distributor.begin_pass(correlation_id="bench")
                    failed = one_pass.reconcile_all(served[message : message + BATCH])
                    if failed:
                        raise SystemExit(f"{failed[0]}: its step failed")

    def cpu(self, act: Callable[[], object]) -> float:
        """Return the function app's CPU seconds."""
        others, started = self.meter.cpu, time.process_time()
        act()
        return time.process_time() - started - (self.meter.cpu - others)

    def wall(self, act: Callable[[], object]) -> float:
        """Return the function app's seconds of wall time."""
        others, started = self.meter.wall, time.perf_counter()
        act()
        return time.perf_counter() - started - (self.meter.wall - others)


class BareCryptography:
    """What no implementation can leave out for some of the fleet's devices, in a bare loop.

    The chain of three is parsed and validated, the device key loaded, the keys wrapped: neither JSON nor a
    policy, no release, no record. It is measured beside the app, and tells how fast the machine is just then.
    """

    def __init__(
        self, root: Certificate, issuer_der: bytes, identities: Sequence[tuple[bytes, bytes]]
    ) -> None:
        self._store = verification.Store([root])
        self._devices = identities
        self._issuer = issuer_der
        self._padding = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)

    def rate(self, keys: int, clock: Callable[[], float] = time.process_time) -> float:
        """Return devices a second."""
        started = clock()
        any_leaf = verification.ExtensionPolicy.permit_all()
        issuers = any_leaf.require_present(BasicConstraints, verification.Criticality.AGNOSTIC, None)
        builder = verification.PolicyBuilder().store(self._store)
        verifier = builder.extension_policies(ca_policy=issuers, ee_policy=any_leaf).build_client_verifier()
        for leaf, spki in self._devices:
            issuer = load_der_x509_certificate(self._issuer)
            verifier.verify(load_der_x509_certificate(leaf), [issuer])
            key = load_der_public_key(spki)
            assert isinstance(key, rsa.RSAPublicKey)
            for _ in range(keys):
                key.encrypt(bytes(32), self._padding)
        return len(self._devices) / (clock() - started)

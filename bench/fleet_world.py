"""A fleet in a local hub's store, in this process: devices with real keys and chains, and what the hub costs.

The hub's part (SQLite, merging, queries) is done here as the local cloud's hub does it, and its CPU time is
kept apart: what is measured is the function app's. What crosses between them does so as JSON text, as it
would on the wire: the app pays for reading and writing its part of it.
"""

from __future__ import annotations

import datetime as dt
import gc
import hashlib
import json
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from functions.adapters.iot_hub import ROW_QUERIES, read_row
from local_cloud.twin_hub.hub import Hub
from local_cloud.twin_hub.identities import Authentication, AuthenticationKind, IdentityRequest
from local_cloud.twin_hub.store import Store
from local_cloud.twin_hub.throttles import Throttles
from shared.certificate_paths import TrustStore
from shared.policy.document import Policy, load_policy
from shared.twin.documents import (
    KEYS,
    OUTCOME_TAG,
    RELEASE,
    KeyReport,
    parse_reported,
    reported_identity,
    reported_status,
)
from shared.twin.ports import RowPage, Twin
from shared.types import DeviceId, KeyName, WrapAlgorithm

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from simulators.audit_segments import MemorySegments

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

PAGE = 1000
_DISTINCT_KEYS = 64
_DAY = dt.timedelta(days=1)


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
    """What distribution asks of a :class:`shared.twin.ports.TwinRegistry`, over a hub in this process.

    The hub is another machine where it is a real one. So its part is not done between the app's steps, where
    it would empty the processor's caches for each device, but before and after those of many.

    Attributes:
        discards: Whether patches are dropped, so that this process grows by what the app keeps alone.
    """

    def __init__(self, hub: Hub, meter: Meter) -> None:
        self.discards = False
        self._hub = hub
        self._meter = meter
        self._answers: dict[DeviceId, str] = {}
        self._writes: list[tuple[DeviceId, str, str]] = []

    @contextmanager
    def serving(self, devices: Sequence[DeviceId]) -> Iterator[None]:
        """Answer reads of these devices' twins, once each, and take their patches."""
        with self._meter.part():
            for device_id in devices:
                self._answers[device_id] = json.dumps(self._hub.twin_json(device_id))
            gc.freeze()  # the hub's many objects are not for the app's collector to walk through
        yield
        with self._meter.part():
            for device_id, text, etag in self._writes:
                patch = json.loads(text)
                keys = patch.get("properties", {}).get("desired", {}).get(KEYS, {})
                self._meter.wrapped += len(keys) - list(keys.values()).count(None)
                if not self.discards:
                    self._hub.update_twin(device_id, patch, if_match=etag, replacing=False)
            self._answers.clear()
            self._writes.clear()
            gc.freeze()

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
            page = self._hub.query(ROW_QUERIES["devices"], page_size=PAGE, continuation=token)
            text = json.dumps(page.items)
        self._meter.count("query pages", read=len(text))
        return RowPage(rows=[read_row(row, ()) for row in json.loads(text)], next_token=page.continuation)


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


class Authority:
    """A fleet CA: a root and the intermediate that issues."""

    def __init__(self) -> None:
        root_key, self._key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        root_name, self._name = (_name(text) for text in ("bench root", "bench issuing CA"))
        self._root = _certificate(root_name, root_name, root_key.public_key(), root_key, ca=True)
        self._issuer = _certificate(self._name, root_name, self._key.public_key(), root_key, ca=True)
        self.issuer_der = self._issuer.public_bytes(Encoding.DER)

    @property
    def trust(self) -> TrustStore:
        return TrustStore(roots=(self._root,))

    @property
    def root_sha256(self) -> str:
        return self._root.fingerprint(hashes.SHA256()).hex()

    def chain(self, device_id: str, key: rsa.RSAPublicKey) -> bytes:
        """Return the DER of a device's certificate and its issuer's."""
        leaf = _certificate(_name(device_id), self._name, key, self._key, device_id=device_id)
        return leaf.public_bytes(Encoding.DER) + self.issuer_der


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: Any,  # noqa: ANN401 - any public key
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    ca: bool = False,
    device_id: str | None = None,
) -> x509.Certificate:
    now = dt.datetime.now(dt.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _DAY)
        .not_valid_after(now + 365 * _DAY)
    )
    if ca:
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    if device_id is not None:
        uri = x509.UniformResourceIdentifier(f"urn:cpk:device:{device_id}")
        builder = builder.add_extension(x509.SubjectAlternativeName([uri]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


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


class FleetStore:
    """A hub's store with devices that have reported their RSA-2048 key and chain."""

    def __init__(self, path: Path, authority: Authority, count: int) -> None:
        self.store = Store(path, hub_name="bench", clock=lambda: dt.datetime.now(dt.UTC))
        # As fast as it goes: what a power cut would take is of no interest here.
        self.store._database.execute("PRAGMA synchronous = OFF")  # noqa: SLF001 - as above
        self.hub = Hub(self.store, Throttles(None))
        self.devices = [DeviceId(f"edge-{number:06}") for number in range(count)]
        self._fingerprints: dict[DeviceId, bytes] = {}
        keys = [
            rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
            for _ in range(min(_DISTINCT_KEYS, count))
        ]
        spki = [key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for key in keys]
        request = IdentityRequest(
            authentication=Authentication(kind=AuthenticationKind.CERTIFICATE_AUTHORITY)
        )
        for number, device_id in enumerate(self.devices):
            which = number % len(keys)
            self.store.create_identity(device_id, request)
            self.hub.update_twin(device_id, {"tags": {"class": "gateway"}}, if_match="*", replacing=False)
            chain = authority.chain(device_id, keys[which])
            self._fingerprints[device_id] = hashlib.sha256(spki[which]).digest()
            identity = reported_identity(spki=spki[which], certificates_der=chain)
            self.store.patch_reported(device_id, {**identity, **self._status(device_id, 0, {})})

    def identity(self, device_id: DeviceId) -> tuple[bytes, bytes]:
        """Return a device's own certificate, DER, and its public key."""
        twin: Any = self.hub.twin_json(device_id)
        reported = parse_reported(twin["properties"]["reported"])
        assert reported.public_key is not None
        return reported.certificates[0].public_bytes(Encoding.DER), reported.public_key.spki

    def forget(self) -> None:
        """Take all that was released out of the twins."""
        nothing = {"tags": {OUTCOME_TAG: None}, "properties": {"desired": {KEYS: None, RELEASE: None}}}
        for device_id in self.devices:
            self.hub.update_twin(device_id, nothing, if_match="*", replacing=False)

    def acknowledge(self, versions: Mapping[KeyName, int]) -> None:
        """Let every device report that it holds these keys, as its agent does."""
        keys = {
            name: KeyReport(version=version, state="installed", kcv=bytes(16))
            for name, version in versions.items()
        }
        for device_id in self.devices:
            self.store.patch_reported(device_id, self._status(device_id, self._sequence(device_id), keys))

    def _sequence(self, device_id: DeviceId) -> int:
        tag: Any = self.store.twin(device_id).tags["confidential_packages"]
        sequence: int = tag["settled"]["seq"]
        return sequence

    def _status(
        self, device_id: DeviceId, sequence: int, keys: Mapping[KeyName, KeyReport]
    ) -> dict[str, object]:
        return reported_status(
            algorithms=[WrapAlgorithm.RSA_OAEP_256],
            fingerprint=self._fingerprints[device_id],
            sequence=sequence,
            keys=keys,
            packages={},
        )

    def close(self) -> None:
        self.store.close()

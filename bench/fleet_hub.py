"""The hub's side of a measured fleet: devices with real keys and chains in a local hub's store.

It is a process of its own, as a real hub is another machine: its twins take 19 KB of memory each, which would
otherwise lie between the objects of the function app that is measured. What crosses between the two is JSON
text, as on the wire.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import multiprocessing
import time
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from local_cloud.twin_hub.hub import Hub
from local_cloud.twin_hub.identities import Authentication, AuthenticationKind, IdentityRequest
from local_cloud.twin_hub.store import Store
from local_cloud.twin_hub.throttles import Throttles
from shared.twin.documents import (
    KEYS,
    OUTCOME_TAG,
    RELEASE,
    KeyReport,
    parse_reported,
    reported_identity,
    reported_status,
)
from shared.types import DeviceId, KeyName, WrapAlgorithm

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from multiprocessing.connection import Connection
    from pathlib import Path

PAGE = 1000
_DISTINCT_KEYS = 64
_DAY = dt.timedelta(days=1)


class Authority:
    """A fleet CA: a root and the intermediate that issues."""

    def __init__(self) -> None:
        root_key, self._key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
        root_name, self._name = (_name(text) for text in ("bench root", "bench issuing CA"))
        root = _certificate(root_name, root_name, root_key.public_key(), root_key, ca=True)
        issuer = _certificate(self._name, root_name, self._key.public_key(), root_key, ca=True)
        self.root_der, self.issuer_der = (each.public_bytes(Encoding.DER) for each in (root, issuer))

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


class FleetStore:
    """A hub's store with devices that have reported their RSA-2048 key and chain."""

    def __init__(self, path: Path, count: int) -> None:
        self._authority = authority = Authority()
        self._store = Store(path, hub_name="bench", clock=lambda: dt.datetime.now(dt.UTC))
        # As fast as it goes: what a power cut would take is of no interest here.
        self._store._database.execute("PRAGMA synchronous = OFF")  # noqa: SLF001 - as above
        self._hub = Hub(self._store, Throttles(None))
        self._devices = [DeviceId(f"edge-{number:06}") for number in range(count)]
        self._fingerprints: dict[DeviceId, bytes] = {}
        keys = [
            rsa.generate_private_key(public_exponent=65537, key_size=2048).public_key()
            for _ in range(min(_DISTINCT_KEYS, count))
        ]
        spki = [key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) for key in keys]
        request = IdentityRequest(
            authentication=Authentication(kind=AuthenticationKind.CERTIFICATE_AUTHORITY)
        )
        for number, device_id in enumerate(self._devices):
            which = number % len(keys)
            self._store.create_identity(device_id, request)
            self._hub.update_twin(device_id, {"tags": {"class": "gateway"}}, if_match="*", replacing=False)
            chain = authority.chain(device_id, keys[which])
            self._fingerprints[device_id] = hashlib.sha256(spki[which]).digest()
            identity = reported_identity(spki=spki[which], certificates_der=chain)
            self._store.patch_reported(device_id, {**identity, **self._status(device_id, 0, {})})

    def device_ids(self) -> list[DeviceId]:
        return self._devices

    def issuers(self) -> tuple[bytes, bytes]:
        """Return the certificates of the root and of the issuing CA, DER."""
        return self._authority.root_der, self._authority.issuer_der

    def identities(self, count: int) -> list[tuple[bytes, bytes]]:
        """Return the first devices' own certificates, DER, and their public keys."""
        return [self._identity(device_id) for device_id in self._devices[:count]]

    def answers(self, devices: Sequence[DeviceId]) -> dict[DeviceId, str]:
        """Return twins as the hub answers them."""
        return {device_id: json.dumps(self._hub.twin_json(device_id)) for device_id in devices}

    def take(self, writes: Sequence[tuple[DeviceId, str, str]]) -> None:
        """Merge patches, each with its device and the ETag that it is for."""
        for device_id, text, etag in writes:
            self._hub.update_twin(device_id, json.loads(text), if_match=etag, replacing=False)

    def page(self, query: str, token: str | None) -> tuple[str, str | None]:
        """Answer a query with a page of rows, and with the next page's token."""
        page = self._hub.query(query, page_size=PAGE, continuation=token)
        return json.dumps(page.items), page.continuation

    def forget(self) -> None:
        """Take all that was released out of the twins."""
        nothing = {"tags": {OUTCOME_TAG: None}, "properties": {"desired": {KEYS: None, RELEASE: None}}}
        for device_id in self._devices:
            self._hub.update_twin(device_id, nothing, if_match="*", replacing=False)

    def acknowledge(self, versions: Mapping[KeyName, int]) -> None:
        """Let every device report that it holds these keys, as its agent does."""
        keys = {
            name: KeyReport(version=version, state="installed", kcv=bytes(16))
            for name, version in versions.items()
        }
        for device_id in self._devices:
            self._store.patch_reported(device_id, self._status(device_id, self._sequence(device_id), keys))

    def cpu_seconds(self) -> float:
        """Return what this process has taken of the processor."""
        return time.process_time()

    def _identity(self, device_id: DeviceId) -> tuple[bytes, bytes]:
        twin: Any = self._hub.twin_json(device_id)
        reported = parse_reported(twin["properties"]["reported"])
        assert reported.public_key is not None
        return reported.certificates[0].public_bytes(Encoding.DER), reported.public_key.spki

    def _sequence(self, device_id: DeviceId) -> int:
        tag: Any = self._store.twin(device_id).tags["confidential_packages"]
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


class HubProcess:
    """A process with a fleet's store, which ends with the process that began it.

    Each of the store's public methods can be called here as it is there, one at a time.
    """

    def __init__(self, path: Path, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        context.Process(target=_serve, args=(theirs, path, count), daemon=True).start()
        theirs.close()

    def __getattr__(self, method: str) -> Callable[..., Any]:
        def call(*arguments: object) -> object:
            self._pipe.send((method, arguments))
            answer, error = self._pipe.recv()
            if error is not None:
                raise error
            return answer

        return call


def _serve(pipe: Connection, path: Path, count: int) -> None:
    store = FleetStore(path, count)
    while True:
        try:
            method, arguments = pipe.recv()
        except EOFError:
            break
        try:
            pipe.send((getattr(store, method)(*arguments), None))
        except Exception as error:  # noqa: BLE001 - told to the caller
            pipe.send((None, error))

"""A fleet with real keys and certificates: its authority, its devices, the policy over them."""

from __future__ import annotations

import datetime as dt
import json
from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from shared.certificate_paths import TrustStore
from shared.policy.document import Policy, load_policy
from shared.public_keys import PublicKey, load_public_key
from shared.twin.documents import KeyReport, reported_identity, reported_status
from shared.types import WrapAlgorithm

NOW = dt.datetime(2030, 5, 17, 12, 0, 0, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)
ALL_ALGORITHMS = (WrapAlgorithm.RSA_OAEP_256, WrapAlgorithm.HPKE_P256, WrapAlgorithm.HPKE_X25519)


def spki_of(private_key) -> bytes:
    return private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


class Authority:
    """A certificate authority; ``trust`` holds its root alone."""

    def __init__(self, name: str = "test fleet CA") -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.root = (
            self._builder(self._name, self._key.public_key(), not_after=NOW + 3650 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=1), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.trust = TrustStore(roots=(self.root,))

    @property
    def root_sha256(self) -> str:
        return self.root.fingerprint(hashes.SHA256()).hex()

    def certify(self, public_key, *, uri: str, not_before=None, not_after=None) -> x509.Certificate:
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "device")])
        builder = self._builder(name, public_key, not_before=not_before, not_after=not_after)
        san = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)])
        return builder.add_extension(san, critical=False).sign(self._key, hashes.SHA256())

    def _builder(self, name, public_key, *, not_before=None, not_after=None):
        return (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self._name)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before or NOW - 365 * DAY)
            .not_valid_after(not_after or NOW + 365 * DAY)
        )


@dataclass(kw_only=True)
class Device:
    """A device that reports as its agent would."""

    device_id: str
    private_key: object
    certificates_der: bytes | None

    @classmethod
    def make(cls, authority: Authority, device_id: str = "edge-01", *, kind: str = "x25519", **validity):
        private_key = {
            "x25519": x25519.X25519PrivateKey.generate,
            "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
            "rsa": lambda: rsa.generate_private_key(public_exponent=65537, key_size=2048),
        }[kind]()
        uri = f"urn:cpk:device:{device_id}"
        certificate = authority.certify(private_key.public_key(), uri=uri, **validity)
        der = certificate.public_bytes(Encoding.DER)
        return cls(device_id=device_id, private_key=private_key, certificates_der=der)

    @property
    def public_key(self) -> PublicKey:
        return load_public_key(spki_of(self.private_key), where="test")

    def identity(self) -> dict[str, object]:
        return reported_identity(spki=spki_of(self.private_key), certificates_der=self.certificates_der)

    def status(self, *, sequence: int = 0, keys=None, algorithms=ALL_ALGORITHMS) -> dict[str, object]:
        status = reported_status(
            algorithms=algorithms,
            fingerprint=self.public_key.fingerprint,
            sequence=sequence,
            keys=keys or {},
            packages={},
        )
        # It is sent as a patch: what failed before and does no longer is taken away.
        return {name: {"failed": None, **value} for name, value in status.items()}

    def report(self, **status) -> dict[str, object]:
        identity = {name: value for name, value in self.identity().items() if value is not None}
        return {**identity, **self.status(**status)}


def failed(release, name) -> KeyReport:
    """Return a device's report that it could not unwrap a key of a release."""
    return KeyReport(
        version=release.keys[name].version, state="error", error="unwrap_failed", sequence=release.sequence
    )


def policy_document(root_sha256: str, **changes) -> dict[str, object]:
    """Return a policy with one rule for gateways and one for build machines."""

    def equals(claim: str, value: object) -> dict[str, object]:
        return {"claim": claim, "equals": value}

    gateways = {
        "id": "gateways",
        "keys": ["*"],
        "operations": ["distribute"],
        "algorithms": ["RSA-OAEP-256", "HPKE-P256", "HPKE-X25519"],
        "lease_seconds": 30 * 86400,
        "release": {
            "allOf": [
                equals("hub.tags.class", "gateway"),
                equals("hub.status", "enabled"),
                equals("x509.chain_root_sha256", root_sha256),
                equals("x509.device_id_matches", True),
                equals("x509.key_matches", True),
            ]
        },
    }
    builds = {
        "id": "builds",
        "keys": ["*"],
        "operations": ["wrap"],
        "algorithms": ["RSA-OAEP-256"],
        "lease_seconds": 30 * 86400,
        "release": {
            "allOf": [
                equals("x509.chain_root_sha256", root_sha256),
                equals("x509.key_matches", True),
                {"claim": "x509.build_name", "exists": True},
            ]
        },
    }
    document = {"version": "1.0.0", "id": "fleet-a", "serial": 1, "rules": [gateways, builds]}
    return {**document, **changes}


def make_policy(root_sha256: str, **changes) -> Policy:
    return load_policy(json.dumps(policy_document(root_sha256, **changes)).encode(), where="policy")

"""What a local cloud is given once, at its first start: authorities, keys, and the policy it begins with.

Nothing that is there is made again, so that devices, packages and tokens outlive a restart. The servers' own
certificate is the exception: it is renewed before it ends.
"""

from __future__ import annotations

import base64
import json
import secrets
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from local_cloud.certificates import Authority, create_authority, issue_server
from local_cloud.files import PRIVATE, write_atomically
from shared.errors import FormatError, StorageError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from local_cloud.state import StateFolder

AUDIENCE = "local"
"""The local cloud's deployment id."""

_AUTHORITY_DAYS = 3650
_RENEW_BEFORE = timedelta(days=30)
_LEASE_SECONDS = 30 * 86400
_PROVISION = [
    "ProvisionKey",
    "ProvisionKeyNamed",
    "ImportKey",
    "ImportKeyPublic",
    "RotateKey",
    "RevokeKey",
    "ChangeRollout",
    "RewrapEnvelopes",
    "DeleteKey",
    "RecoverKey",
    "Keys",
    "Key",
    "Holders",
    "Devices",
    "Device",
    "DeviceModule",
    "ReconcileDevices",
    "Ready",
    "Policy",
    "Audit",
]
_KEY_FUNCTIONS: Mapping[str, list[str] | str] = {"provision": _PROVISION, "wrap": ["WrapKey"], "admin": "*"}


def ensure_credentials(state: StateFolder, address: str) -> None:
    """Make what is missing.

    Args:
        state: Where it is kept.
        address: What the servers' certificate is for, beside ``localhost`` and 127.0.0.1.

    Raises:
        StorageError: The disk refused.
        FormatError: What is there is damaged.
    """
    root = _authority(state, "ca", "Local Cloud Root")
    fleet = _authority(state, "fleet-ca", "Local Fleet CA")
    _ensure_server_certificate(state, root, address)
    _ensure_identity(state)
    if not (service_key := state.file("service.key")).exists():
        write_atomically(service_key, base64.b64encode(secrets.token_bytes(32)), mode=PRIVATE)
    _ensure_function_keys(state)
    if not state.policy_file.exists():
        _write_json(state.policy_file, default_policy(fleet.certificate))


def service_key(state: StateFolder) -> str:
    """Return the shared access key of the hub's service endpoint, base64."""
    return state.file("service.key").read_text(encoding="ascii")


def function_keys(state: StateFolder) -> dict[str, str]:
    """Return the function app's keys by name.

    Raises:
        FormatError: The file is damaged.
    """
    path = state.file("function-keys.json")
    try:
        document = json.loads(path.read_bytes())
        return {str(name): str(entry["key"]) for name, entry in document.items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise FormatError(f"{path}: expected an object of keys") from error


def default_policy(fleet_ca: x509.Certificate) -> dict[str, object]:
    """Return the policy that a local cloud begins with.

    Enabled gateways get every class key, if the fleet CA certified the very key they report under their own
    device id. Build machines get every class key, if the fleet CA certified their key as a build machine's.
    """
    chained = {
        "claim": "x509.chain_root_sha256",
        "equals": fleet_ca.fingerprint(hashes.SHA256()).hex(),
    }
    own_key = {"claim": "x509.key_matches", "equals": True}
    gateways = [
        {"claim": "hub.tags.class", "equals": "gateway"},
        {"claim": "hub.status", "equals": "enabled"},
        chained,
        {"claim": "x509.device_id_matches", "equals": True},
        own_key,
    ]
    builds = [chained, own_key, {"claim": "x509.build_name", "exists": True}]
    return {
        "version": "1.0.0",
        "id": AUDIENCE,
        "serial": 1,
        "rules": [
            {
                "id": "gateways",
                "keys": ["*"],
                "operations": ["distribute"],
                "algorithms": ["RSA-OAEP-256", "HPKE-P256", "HPKE-X25519"],
                "lease_seconds": _LEASE_SECONDS,
                "release": {"allOf": gateways},
            },
            {
                "id": "builds",
                "keys": ["*"],
                "operations": ["wrap"],
                "algorithms": ["RSA-OAEP-256"],
                "release": {"allOf": builds},
            },
        ],
    }


def _ensure_function_keys(state: StateFolder) -> None:
    """Keep the keys that are there; what each opens is always as this version of the project says."""
    path = state.file("function-keys.json")
    known = function_keys(state) if path.exists() else {}
    document = {
        name: {"key": known.get(name) or secrets.token_urlsafe(32), "functions": functions}
        for name, functions in _KEY_FUNCTIONS.items()
    }
    _write_json(path, document, mode=PRIVATE)


def _authority(state: StateFolder, name: str, common_name: str) -> Authority:
    certificate, key = state.file(f"{name}.pem"), state.file(f"{name}.key")
    if not certificate.exists():  # written last: with it, both are there
        create_authority(common_name, days=_AUTHORITY_DAYS).save(certificate, key)
    return Authority.load(certificate, key)


def _ensure_server_certificate(state: StateFolder, root: Authority, address: str) -> None:
    certificate, key = state.file("server.pem"), state.file("server.key")
    if certificate.exists() and key.exists() and _lasts(certificate):
        return
    hosts = list(dict.fromkeys([address, "localhost", "127.0.0.1"]))
    chain, private_key = issue_server(root, hosts)
    write_atomically(key, private_key, mode=PRIVATE)
    write_atomically(certificate, chain)


def _lasts(certificate: Path) -> bool:
    try:
        leaf = x509.load_pem_x509_certificate(certificate.read_bytes())
    except ValueError as error:
        raise FormatError(f"{certificate}: expected a PEM certificate") from error
    return leaf.not_valid_after_utc - datetime.now(UTC) > _RENEW_BEFORE


def _ensure_identity(state: StateFolder) -> None:
    private_file, public_file = state.file("identity.key"), state.file("identity.pem")
    if public_file.exists():  # written last: with it, both are there
        _require_pair(private_file, public_file)
        return
    key = ec.generate_private_key(ec.SECP256R1())
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    write_atomically(private_file, private, mode=PRIVATE)
    write_atomically(public_file, public)


def _require_pair(private_file: Path, public_file: Path) -> None:
    """Refuse an identity that no token could be minted or verified with."""
    try:
        private, public = private_file.read_bytes(), public_file.read_bytes()
    except OSError as error:
        raise StorageError(f"cannot read {error.filename}: {error.strerror}") from error
    try:
        key = serialization.load_pem_private_key(private, password=None)
    except (ValueError, TypeError) as error:
        raise FormatError(f"{private_file}: expected an unencrypted PEM private key") from error
    try:
        known = serialization.load_pem_public_key(public)
    except ValueError as error:
        raise FormatError(f"{public_file}: expected a PEM public key") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != known:
        raise FormatError(f"{private_file}: not the EC private key of {public_file}")


def _write_json(path: Path, document: object, **options: int) -> None:
    write_atomically(path, json.dumps(document, indent=2).encode() + b"\n", **options)

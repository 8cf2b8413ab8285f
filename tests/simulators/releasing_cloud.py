"""What a CPM meets from outside, with real crypto: a cloud that releases class keys, a vendor of packages."""

from __future__ import annotations

import hashlib
import io
import os
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from shared.certificate_paths import TrustStore
from shared.cpk.manifest import Target, Version
from shared.cpk.sealing import ClassKey, Description, seal_package
from shared.cpk.signing_keys import KeySigner
from shared.keys.wrapping import WrapContext, algorithms_for, wrap_key
from shared.public_keys import load_public_key
from shared.release.document import Release, ReleasedKey, assemble, encode_claims, to_be_signed
from shared.types import Audience, DeviceId, Fingerprint, KeyName, Secret, WrapAlgorithm

if TYPE_CHECKING:
    from collections.abc import Mapping

AUDIENCE = Audience("test")
DEVICE_ID = DeviceId("edge-01")
NAME = KeyName("my_confidential_app")
CP_ID = "my_confidential_app"
KID = "https://vault/keys/release-signing/1"


@dataclass
class ReleasingCloud:
    """Wraps class keys for one device and signs releases; class keys are made as they are asked for."""

    release_key: ec.EllipticCurvePrivateKey = field(
        default_factory=lambda: ec.generate_private_key(ec.SECP256R1())
    )
    class_keys: dict[tuple[str, int], Secret] = field(default_factory=dict)

    def class_key(self, name: str = NAME, version: int = 1) -> Secret:
        return self.class_keys.setdefault((name, version), Secret(os.urandom(32)))

    def release_key_pem(self) -> bytes:
        return self.release_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)

    def release(
        self,
        spki: bytes,
        *,
        sequence: int,
        keys: Mapping[str, int],
        floors: Mapping[str, int] | None = None,
        algorithm: WrapAlgorithm | None = None,
        issued_at: int | None = None,
        lease_seconds: int = 3600,
        device_id: DeviceId = DEVICE_ID,
        audience: Audience = AUDIENCE,
        fingerprint: bytes | None = None,
        signed_by: ec.EllipticCurvePrivateKey | None = None,
    ) -> tuple[bytes, dict[str, bytes]]:
        """Return a release and its wrapped keys."""
        public_key = load_public_key(spki, where="test")
        chosen = algorithm or algorithms_for(public_key.kind)[0]
        now = issued_at if issued_at is not None else int(datetime.now(UTC).timestamp())
        wrapped = {
            name: wrap_key(
                self.class_key(name, version),
                public_key,
                chosen,
                context=WrapContext(
                    audience=audience, device_id=device_id, name=KeyName(name), version=version
                ),
            )
            for name, version in keys.items()
        }
        claims = encode_claims(
            Release(
                device_id=device_id,
                audience=audience,
                issued_at=now,
                expires_at=now + lease_seconds,
                sequence=sequence,
                fingerprint=Fingerprint(fingerprint or public_key.fingerprint),
                keys={
                    KeyName(name): ReleasedKey(
                        version=version,
                        algorithm=chosen,
                        not_after=now + lease_seconds,
                        wrapped_sha256=hashlib.sha256(wrapped[name]).digest(),
                    )
                    for name, version in keys.items()
                },
                floors={KeyName(name): floor for name, floor in (floors or {}).items()},
                policy_sha256=bytes(32),
            )
        )
        der = (signed_by or self.release_key).sign(to_be_signed(claims, kid=KID), ec.ECDSA(hashes.SHA256()))
        r, s = decode_dss_signature(der)
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return assemble(claims, kid=KID, signature=signature), wrapped


@cache
def _signing_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@dataclass(frozen=True)
class Vendor:
    """Signs packages with a certificate of its own root."""

    signer: KeySigner
    root_pem: bytes

    @property
    def trust(self) -> TrustStore:
        return TrustStore.from_pem(self.root_pem, where="test roots")

    def package(
        self,
        payload: bytes,
        class_key: Secret,
        *,
        version: tuple[int, int, int] = (1, 0, 0),
        key_version: int | None = 1,
        cp_id: str = CP_ID,
        key_name: KeyName = NAME,
        signed: bool = True,
        package_signature: bool = True,
    ) -> bytes:
        """Return a sealed package."""
        major, minor, revision = version
        output = io.BytesIO()
        seal_package(
            io.BytesIO(payload),
            len(payload),
            output,
            description=Description(
                id=cp_id,
                name="Digits",
                vendor="Contoso",
                target=Target(arch="any", os="linux"),
                version=Version(major=major, minor=minor, revision=revision, date=datetime.now(UTC)),
            ),
            class_key=ClassKey(name=key_name, version=key_version, key=class_key),
            nonce=os.urandom(12),
            signer=self.signer if signed else None,
            package_signature=package_signature,
        )
        return output.getvalue()


def make_vendor(*, valid_days: int = 30) -> Vendor:
    """Return a vendor whose certificate is valid from yesterday on."""
    root_key = ec.generate_private_key(ec.SECP256R1())
    root_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Vendor Root")])
    root = _certificate(root_name, root_name, root_key.public_key(), root_key, valid_days=365, ca=True)
    leaf_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Vendor Signer")])
    leaf_key = _signing_key()
    leaf = _certificate(
        leaf_name, root_name, leaf_key.public_key(), root_key, valid_days=valid_days, ca=False
    )
    signer = KeySigner.load(leaf_key, leaf.public_bytes(Encoding.PEM), where="test certificate")
    return Vendor(signer=signer, root_pem=root.public_bytes(Encoding.PEM))


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
    issuer_key: ec.EllipticCurvePrivateKey,
    *,
    valid_days: int,
    ca: bool,
) -> x509.Certificate:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=valid_days))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
        .sign(issuer_key, hashes.SHA256())
    )

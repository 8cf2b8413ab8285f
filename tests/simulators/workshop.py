"""A place to build packages in: a payload, a key store, signing keys, and ``cpk-tool`` as a process."""

import base64
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

CPK_TOOL = Path(sys.executable).with_name("cpk-tool")
CLASS_KEY = bytes(range(32))
_HASHING = (rsa.RSAPrivateKey, ec.EllipticCurvePrivateKey)


def tool(*arguments, env=None, cwd=None):
    clean = {
        name: value for name, value in os.environ.items() if not name.startswith(("CP_", "CPK_", "CPM_"))
    }
    return subprocess.run(
        [CPK_TOOL, *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
        env=clean | (env or {}),
        timeout=120,
    )


def write_pair(folder, name, key=None, *, passphrase=None):
    """Write a key and its self-signed certificate; return the key."""
    key = key or rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, f"Test {name}")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .sign(key, hashes.SHA256() if isinstance(key, _HASHING) else None)
    )
    encryption = BestAvailableEncryption(passphrase) if passphrase is not None else NoEncryption()
    (folder / f"{name}.pem").write_bytes(certificate.public_bytes(Encoding.PEM))
    (folder / f"{name}.der").write_bytes(certificate.public_bytes(Encoding.DER))
    (folder / f"{name}.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    return key


@dataclass(kw_only=True)
class Workshop:
    """A folder to build in, with a payload, a key store, a signing key and its certificate as trust."""

    folder: Path
    pki: Path

    @property
    def package(self):
        return self.folder / "app.cpk"

    def build(self, *more, signed=True, method=("-e", "file"), env=None, payload=None):
        signing = ("--sign-key", self.pki / "sign.key", "--cert", self.pki / "sign.pem") if signed else ()
        store = () if "-k" in more or env else ("-k", self.folder / "keys.json")
        given = (*method, *store, *signing, *more)
        return tool(
            "build",
            "-i",
            payload or self.folder / "app.bin",
            "-o",
            self.package,
            "-a",
            "my_app",
            *given,
            env=env,
        )

    def verify(self, *more):
        store, trust = self.folder / "keys.json", self.pki / "sign.pem"
        return tool("verify", self.package, "--key-store", store, "--trust", trust, *more)

    def names(self):
        """Return what lies in the folder."""
        return sorted(path.name for path in self.folder.iterdir())


def make_workshop(folder, pki):
    """Return a workshop in a folder, with a payload and a class key."""
    (folder / "app.bin").write_bytes(b"the payload")
    keys = {"my_app": CLASS_KEY, "other": bytes(32)}
    (folder / "keys.json").write_text(
        json.dumps({name: base64.b64encode(key).decode() for name, key in keys.items()})
    )
    return Workshop(folder=folder, pki=pki)

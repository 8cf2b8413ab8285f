"""The folder of a build machine: its own key pair, a vendor's authority, and a certificate to sign packages.

A vendor's authority is its own, not the fleet's: devices trust the one for packages and the cloud trusts the
other for devices and build machines.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from local_cloud.certificates import certificate_pem, create_authority, issue_signer
from local_cloud.files import PRIVATE, write_atomically
from shared.errors import Conflict, StorageError

if TYPE_CHECKING:
    from pathlib import Path

BUILD_KEY: Final = "build.key"
"""The machine's own RSA key pair; WrapKey wraps the class key for it."""

BUILD_PUBLIC: Final = "build-public.pem"
BUILD_CERTIFICATE: Final = "build.pem"
"""What the fleet CA says about :data:`BUILD_KEY`."""

SIGNING_KEY: Final = "signing.key"
SIGNING_CERTIFICATE: Final = "signing.pem"
VENDOR_CA: Final = "vendor-ca.pem"
"""Root that devices trust for packages."""

WRAP_KEY: Final = "wrap.function-key"
"""Function key of WrapKey."""

_VENDOR_CA_KEY = "vendor-ca.key"
_CA_DAYS = 3650
_RSA_BITS = 2048
_EXPONENT = 65537


def make_build_folder(folder: Path) -> bytes:
    """Make the folder and every key in it; what has to be certified by others is still missing.

    Returns:
        The machine's own public key, DER SubjectPublicKeyInfo.

    Raises:
        Conflict: There are keys in the folder already; nothing was changed.
        StorageError: The disk refused.
    """
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make {folder}: {error.strerror}") from error
    if (folder / BUILD_KEY).exists():
        raise Conflict(f"{folder}: expected a folder without {BUILD_KEY}, found one")
    own, signing = (rsa.generate_private_key(public_exponent=_EXPONENT, key_size=_RSA_BITS) for _ in range(2))
    vendor = create_authority("Example Vendor Root", days=_CA_DAYS)
    vendor.save(folder / VENDOR_CA, folder / _VENDOR_CA_KEY)
    signer = issue_signer(vendor, "Example Vendor Package Signing", signing.public_key())
    write_atomically(folder / SIGNING_KEY, _private_pem(signing), mode=PRIVATE)
    write_atomically(folder / SIGNING_CERTIFICATE, certificate_pem(signer))
    public = own.public_key()
    write_atomically(folder / BUILD_PUBLIC, _public_bytes(public, serialization.Encoding.PEM))
    write_atomically(folder / BUILD_KEY, _private_pem(own), mode=PRIVATE)
    return _public_bytes(public, serialization.Encoding.DER)


def _private_pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _public_bytes(key: rsa.RSAPublicKey, encoding: serialization.Encoding) -> bytes:
    return key.public_bytes(encoding, serialization.PublicFormat.SubjectPublicKeyInfo)

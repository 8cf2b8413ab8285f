"""Software custody: device key and storage root in files of the state folder.

It protects against the network and whoever runs the cloud. It does not protect against root on the device,
nor against a thief of the disk, nor against an old copy of the folder: there the TPM back end belongs.

============== ==================================================================
file           content
============== ==================================================================
storage.root   32 random bytes (:mod:`cpm.custody.storage_root`)
device.key     PEM, PKCS #8, not encrypted; written last (see ``Custody.commit``)
============== ==================================================================
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from cpm.custody.port import DeviceKeyType
from cpm.custody.storage_root import ROOT_BYTES, StorageRoot, damaged
from cpm.files import read_private, write_atomically
from shared.errors import FormatError
from shared.keys.unwrapping import PrivateKey, unwrap_key
from shared.keys.wrapping import WrapContext, algorithms_for
from shared.public_keys import PublicKey, load_public_key
from shared.types import Secret, WrapAlgorithm

if TYPE_CHECKING:
    from pathlib import Path

DEVICE_KEY_FILE: Final = "device.key"
STORAGE_ROOT_FILE: Final = "storage.root"

_MAX_KEY_FILE = 16 * 1024
_RSA_BITS = {DeviceKeyType.RSA2048: 2048, DeviceKeyType.RSA3072: 3072, DeviceKeyType.RSA4096: 4096}


class SoftwareCustody:
    """A :class:`cpm.custody.port.Custody` in files; see the module. Make one with :meth:`open`."""

    def __init__(self, *, folder: Path, root: StorageRoot, device_key: PrivateKey, fresh: bool) -> None:
        self._path = folder / DEVICE_KEY_FILE
        self._root = root
        self._device_key = device_key
        self._fresh = fresh
        spki = device_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self._public_key = load_public_key(spki, where=str(self._path))

    @classmethod
    def open(cls, folder: Path, *, key_type: DeviceKeyType) -> SoftwareCustody:
        """Load what ``folder`` holds; at the first start, make a storage root and a device key.

        Args:
            folder: The state folder; it exists, and the caller holds its lock.
            key_type: For a new device key; one that exists is used whatever its kind.

        Raises:
            StorageError: ``state_damaged`` or ``state_exposed``; nothing was changed.
        """
        encoded = read_private(folder / DEVICE_KEY_FILE, most=_MAX_KEY_FILE)
        root = read_private(folder / STORAGE_ROOT_FILE, most=ROOT_BYTES)
        if encoded is not None and root is None:
            raise damaged(f"{folder / STORAGE_ROOT_FILE} is missing beside {DEVICE_KEY_FILE}")
        if root is not None and len(root) != ROOT_BYTES:
            raise damaged(f"{folder / STORAGE_ROOT_FILE}: expected {ROOT_BYTES} bytes, found {len(root)}")
        fresh = encoded is None
        device_key = _generate(key_type) if encoded is None else _load(encoded, folder / DEVICE_KEY_FILE)
        if root is None:
            root = os.urandom(ROOT_BYTES)
            write_atomically(folder / STORAGE_ROOT_FILE, root)
        try:
            return cls(folder=folder, root=StorageRoot(Secret(root)), device_key=device_key, fresh=fresh)
        except FormatError as error:
            raise damaged(str(error)) from error

    @property
    def public_key(self) -> PublicKey:
        """The device key's public half."""
        return self._public_key

    @property
    def algorithms(self) -> tuple[WrapAlgorithm, ...]:
        """What :meth:`unwrap` can open, the default first."""
        return algorithms_for(self._public_key.kind)

    @property
    def fresh(self) -> bool:
        """Whether the device key was made at this start and is not yet on disk."""
        return self._fresh

    def commit(self) -> None:
        """Write a fresh device key; see the port."""
        if self._fresh:
            pem = self._device_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            write_atomically(self._path, pem)
            self._fresh = False

    def unwrap(self, wrapped: bytes, algorithm: WrapAlgorithm, *, context: WrapContext) -> Secret:
        """Open a class key that was wrapped for the device key; see the port."""
        return unwrap_key(wrapped, self._device_key, algorithm, context=context)

    def seal(self, content: bytes, *, purpose: str) -> bytes:
        """Seal ``content`` under the storage root; see the port."""
        return self._root.seal(content, purpose=purpose)

    def unseal(self, sealed: bytes, *, purpose: str) -> bytes:
        """Return what :meth:`seal` was given; see the port."""
        return self._root.unseal(sealed, purpose=purpose)

    @property
    def counter(self) -> None:
        """A folder of files cannot count what a copy of it does not undo."""
        return

    def close(self) -> None:
        """Nothing is held open."""


def _generate(key_type: DeviceKeyType) -> PrivateKey:
    match key_type:
        case DeviceKeyType.P256:
            return ec.generate_private_key(ec.SECP256R1())
        case DeviceKeyType.X25519:
            return x25519.X25519PrivateKey.generate()
        case _:
            return rsa.generate_private_key(public_exponent=65537, key_size=_RSA_BITS[key_type])


def _load(encoded: bytes, path: Path) -> PrivateKey:
    try:
        key = load_pem_private_key(encoded, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise damaged(f"{path}: expected a PEM private key") from error
    if not isinstance(key, PrivateKey):
        raise damaged(f"{path}: expected an RSA, P-256 or X25519 private key")
    return key

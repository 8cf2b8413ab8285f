"""The storage root in use: 32 bytes from which everything that the CPM seals for itself takes its key.

Back ends differ in where the root rests; what is done with it is the same for all of them.

====================== ==================================================================
derived for            key
====================== ==================================================================
sealing for a purpose  HKDF-SHA256, info ``CPM-STORAGE-v1`` NUL purpose; AES-256-GCM
an authorization value HKDF-SHA256, info ``CPM-AUTH-v1`` NUL purpose
====================== ==================================================================
"""

from __future__ import annotations

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from shared.errors import StorageError
from shared.types import Secret

ROOT_BYTES: Final = 32

_NONCE_BYTES = 12
_STORAGE_LABEL = b"CPM-STORAGE-v1\0"
_AUTH_LABEL = b"CPM-AUTH-v1\0"


class StorageRoot:
    """Seals and unseals, and derives what else only this device may know.

    Args:
        root: 32 bytes.
    """

    def __init__(self, root: Secret) -> None:
        self._root = root

    def seal(self, content: bytes, *, purpose: str) -> bytes:
        """Return nonce ‖ AES-256-GCM ciphertext ‖ tag under a key derived for ``purpose``; see the port.

        Nonces are random: far fewer than 2^32 seals are ever made under one storage root (SP 800-38D, 8.3).
        """
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher(purpose).encrypt(nonce, content, purpose.encode())

    def unseal(self, sealed: bytes, *, purpose: str) -> bytes:
        """Return what :meth:`seal` was given; see the port."""
        nonce, ciphertext = sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:]
        try:
            return self._cipher(purpose).decrypt(nonce, ciphertext, purpose.encode())
        except (InvalidTag, ValueError) as error:
            raise damaged(f"the sealed {purpose} was changed, or is another device's") from error

    def authorization(self, purpose: str) -> Secret:
        """Return 32 bytes that authorize one use, such as that of a key in a TPM."""
        return Secret(self._derive(_AUTH_LABEL + purpose.encode()))

    def _cipher(self, purpose: str) -> AESGCM:
        return AESGCM(self._derive(_STORAGE_LABEL + purpose.encode()))

    def _derive(self, info: bytes) -> bytes:
        return HKDF(algorithm=hashes.SHA256(), length=32, salt=None, info=info).derive(self._root.reveal())


def damaged(message: str) -> StorageError:
    """Return the error for a state folder that is not as it was left."""
    return StorageError(
        message,
        code="state_damaged",
        hint="restore the whole state folder, or start with an empty one and enrol the device again",
    )

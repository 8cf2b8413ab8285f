"""Files with keys in them: the JSON key store of the reference tool, and PEM private keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from shared import strict_json
from shared.encoding import decode_base64
from shared.errors import FormatError, KeyUnavailable
from shared.types import Secret

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from cpk_tool.passphrase import PassphraseSource

MAX_FILE = 1 << 20
"""Largest key, certificate or key store file that is read, in bytes."""


class FileKeyStore:
    """A JSON object, name to base64 of an AES key, in the clear; for tests.

    Args:
        entries: The parsed object. An entry is checked when it is asked for.
        where: The file's name, for messages.
    """

    def __init__(self, entries: Mapping[str, object], *, where: str) -> None:
        self._entries = entries
        self._where = where

    @classmethod
    def load(cls, path: Path) -> FileKeyStore:
        """Read a key store.

        Raises:
            FormatError: It is not a strict JSON object.
        """
        document = strict_json.loads(read_small(path), where=str(path))
        if not isinstance(document, dict):
            raise FormatError(f"{path}: expected a JSON object of key names, found another value")
        return cls(document, where=str(path))

    def get(self, name: str) -> Secret:
        """Return the key called ``name``, whatever its length.

        Raises:
            KeyUnavailable: There is none.
            FormatError: Its entry is not base64.
        """
        if name not in self._entries:
            raise KeyUnavailable(f"{self._where}: no class key called {name!r}")
        return Secret(decode_base64(self._entries[name], where=f"{self._where}: key {name!r}"))


def load_private_key(path: Path, passphrase: PassphraseSource | None = None) -> object:
    """Return the private key of a PEM file, of whatever kind.

    Args:
        path: The file.
        passphrase: Asked only if the key is encrypted.

    Raises:
        FormatError: It is no private key in PEM, or it is encrypted and no passphrase opens it.
        UsageError: It is encrypted, and there is no way to ask for the passphrase.
        OSError: It cannot be read.
    """
    data = read_small(path)
    try:
        return load_pem_private_key(data, password=None)
    except TypeError as error:
        if passphrase is None:
            raise FormatError(f"{path}: the private key is encrypted, and nothing opens it") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise FormatError(f"{path}: expected a private key in PEM") from error
    try:
        return load_pem_private_key(data, password=passphrase.ask().reveal())
    except (ValueError, UnsupportedAlgorithm) as error:
        raise FormatError(f"{path}: the passphrase does not open the private key") from error


def read_small(path: Path) -> bytes:
    """Return a file's bytes.

    Raises:
        FormatError: It holds more than 1 MiB.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        data = file.read(MAX_FILE + 1)
    if len(data) > MAX_FILE:
        raise FormatError(f"{path}: expected at most {MAX_FILE} bytes, found more")
    return data

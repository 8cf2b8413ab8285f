"""The two files of a TPM's custody: what only this TPM can load, in strict CBOR, with the parent's name.

================== ==================================================================
file               content
================== ==================================================================
storage-root.tpm   the storage root, sealed once for every state of the platform that is approved
device-key.tpm     the device key; written last (see ``Custody.commit``)
================== ==================================================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from cpm.custody.choice import PCR_COUNT
from cpm.custody.storage_root import damaged
from cpm.custody.tpm_device import TpmObject
from cpm.files import read_private, write_atomically
from shared.encoding import decode_cbor, encode_cbor
from shared.errors import FormatError

if TYPE_CHECKING:
    from pathlib import Path

ROOT_FILE: Final = "storage-root.tpm"
KEY_FILE: Final = "device-key.tpm"

MAX_SEALINGS: Final = 16
"""States of the platform that may be approved at once: each costs an attempt at the start."""

_FORMAT = 1
_MAX_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealing:
    """The storage root as it is sealed to one state of the platform.

    Args:
        pcrs: The PCRs that the policy is about, ascending.
        sealed: The sealed data.
    """

    pcrs: tuple[int, ...]
    sealed: TpmObject


@dataclass(frozen=True, slots=True, kw_only=True)
class RootFile:
    """What ``storage-root.tpm`` holds.

    Args:
        parent: Name of the TPM's parent key.
        sealings: 1 to :data:`MAX_SEALINGS`; any of them may open.
    """

    parent: bytes
    sealings: tuple[Sealing, ...]

    @classmethod
    def read(cls, folder: Path) -> RootFile | None:
        """Return the file, or None if there is none.

        Raises:
            StorageError: ``state_damaged`` or ``state_exposed``.
        """
        path = folder / ROOT_FILE
        encoded = read_private(path, most=_MAX_BYTES)
        if encoded is None:
            return None
        match _decode(encoded, path):
            case {"parent": bytes(parent), "sealings": list(found)} if 0 < len(found) <= MAX_SEALINGS:
                return cls(parent=parent, sealings=tuple(_sealing(each, path) for each in found))
        raise damaged(f"{path}: expected the sealed storage root")

    def write(self, folder: Path) -> None:
        """Replace the file.

        Raises:
            StorageError: The disk refused; the old file stays.
        """
        sealings = [
            {"pcrs": list(each.pcrs), "public": each.sealed.public, "private": each.sealed.private}
            for each in self.sealings
        ]
        document = {"format": _FORMAT, "parent": self.parent, "sealings": sealings}
        write_atomically(folder / ROOT_FILE, encode_cbor(document))


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyFile:
    """What ``device-key.tpm`` holds.

    Args:
        parent: Name of the TPM's parent key.
        key: The device key.
    """

    parent: bytes
    key: TpmObject

    @classmethod
    def read(cls, folder: Path) -> KeyFile | None:
        """Return the file, or None if there is none.

        Raises:
            StorageError: ``state_damaged`` or ``state_exposed``.
        """
        path = folder / KEY_FILE
        encoded = read_private(path, most=_MAX_BYTES)
        if encoded is None:
            return None
        match _decode(encoded, path):
            case {"parent": bytes(parent), "public": bytes(public), "private": bytes(private)}:
                return cls(parent=parent, key=TpmObject(public=public, private=private))
        raise damaged(f"{path}: expected the device key")

    def write(self, folder: Path) -> None:
        """Write the file.

        Raises:
            StorageError: The disk refused.
        """
        document = {
            "format": _FORMAT,
            "parent": self.parent,
            "public": self.key.public,
            "private": self.key.private,
        }
        write_atomically(folder / KEY_FILE, encode_cbor(document))


def _sealing(found: object, path: Path) -> Sealing:
    match found:
        case {"pcrs": list(pcrs), "public": bytes(public), "private": bytes(private)} if all(
            type(pcr) is int and 0 <= pcr < PCR_COUNT for pcr in pcrs
        ):
            return Sealing(pcrs=tuple(pcrs), sealed=TpmObject(public=public, private=private))
    raise damaged(f"{path}: expected PCRs and sealed data")


def _decode(encoded: bytes, path: Path) -> object:
    try:
        document = decode_cbor(encoded, where=str(path))
    except FormatError as error:
        raise damaged(str(error)) from error
    match document:
        case {"format": int(version)} if version == _FORMAT:
            return document
    raise damaged(f"{path}: expected format {_FORMAT}")

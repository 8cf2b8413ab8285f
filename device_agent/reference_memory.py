"""What the agent remembers in the place of a reference CPM, which remembers nothing.

A file that is not there is the memory of a device that applied nothing. A damaged one is an error, and never
taken for that: it would undo every floor.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from device_agent.files import replace_file
from shared.errors import FormatError, StorageError
from shared.strict_json import loads
from shared.types import parse_key_name

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from shared.types import KeyName

_MAX_BYTES = 256 * 1024
_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """The last release that was applied.

    Args:
        fingerprint: Of the device key that it was for; None if none was.
        sequence: Its sequence; 0 if none was.
        digest: SHA-256 of its bytes.
        issued_at: The latest ``iat`` ever applied, Unix seconds.
        floors: The lowest version allowed, by name, over all releases.
        keys: The versions that it brought, by name.
    """

    fingerprint: bytes | None = None
    sequence: int = 0
    digest: bytes | None = None
    issued_at: int = 0
    floors: Mapping[KeyName, int] = field(default_factory=dict)
    keys: Mapping[KeyName, int] = field(default_factory=dict)


class ReferenceMemory:
    """The file ``reference-cpm.json``; replaced atomically.

    Args:
        path: Where it is.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> Memory:
        """Return what was saved last.

        Raises:
            StorageError: ``state_damaged``.
        """
        try:
            with self._path.open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
            return _parse(data)
        except FileNotFoundError:
            return Memory()
        except (OSError, FormatError) as error:
            raise StorageError(
                f"{self._path}: what was remembered of releases cannot be read: {error}",
                code="state_damaged",
                hint="restore it, or remove it and accept that older releases are taken again",
            ) from error

    def save(self, memory: Memory) -> None:
        """Replace what is remembered.

        Raises:
            StorageError: The disk refused; what was saved before still stands.
        """
        document = {
            "fingerprint": _hex(memory.fingerprint),
            "sequence": memory.sequence,
            "digest": _hex(memory.digest),
            "issued_at": memory.issued_at,
            "floors": dict(memory.floors),
            "keys": dict(memory.keys),
        }
        replace_file(self._path, json.dumps(document).encode())


def _hex(value: bytes | None) -> str | None:
    return None if value is None else value.hex()


def _parse(data: bytes) -> Memory:
    if len(data) > _MAX_BYTES:
        raise FormatError(f"expected at most {_MAX_BYTES} bytes")
    document = loads(data, where="memory")
    if not isinstance(document, dict):
        raise FormatError("expected an object")
    return Memory(
        fingerprint=_digest(document.get("fingerprint"), "fingerprint"),
        sequence=_number(document.get("sequence"), "sequence"),
        digest=_digest(document.get("digest"), "digest"),
        issued_at=_number(document.get("issued_at"), "issued_at"),
        floors=_versions(document.get("floors"), "floors"),
        keys=_versions(document.get("keys"), "keys"),
    )


def _number(value: object, where: str) -> int:
    if type(value) is not int or value < 0:
        raise FormatError(f"{where}: expected a whole number")
    return value


def _digest(value: object, where: str) -> bytes | None:
    if value is None:
        return None
    try:
        digest = bytes.fromhex(value) if isinstance(value, str) else b""
    except ValueError:
        digest = b""
    if len(digest) != _DIGEST_BYTES:
        raise FormatError(f"{where}: expected {_DIGEST_BYTES} bytes in hex")
    return digest


def _versions(value: object, where: str) -> dict[KeyName, int]:
    if not isinstance(value, dict):
        raise FormatError(f"{where}: expected an object")
    return {
        parse_key_name(name, where=where): _number(version, f"{where}/{name}")
        for name, version in value.items()
    }

"""What the CPM remembers, as one immutable value and its strict CBOR form.

One document holds everything that must change together: sequence, floors, class keys, the list of packages
and the keys of their sealed files. Replacing it atomically is what makes an operation happen wholly or not at
all.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shared.encoding import decode_cbor, encode_cbor
from shared.errors import FormatError, StorageError
from shared.types import (
    Audience,
    DeviceId,
    KeyName,
    Secret,
    WrapAlgorithm,
    parse_audience,
    parse_device_id,
    parse_key_name,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

FORMAT = 1
"""Version of the document's form."""

MAX_DOCUMENT = 32 << 20
"""Longest document that is written, in bytes; far below what is read, so what was written is always read."""

Version = tuple[int, int, int]
"""A package's version: major, minor, revision; u32 each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldKey:
    """One version of a class key that this device may use.

    Args:
        version: From 1.
        key: 16, 24 or 32 bytes.
        algorithm: How it came.
        not_after: Unix seconds; from then on it is not used. None for a key of contract version 1.
    """

    version: int
    key: Secret
    algorithm: WrapAlgorithm
    not_after: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledPackage:
    """An installed package.

    Args:
        name: Its display name.
        vendor: Its vendor's display name.
        version: Its payload's version.
        key_name: The class key that it was sealed under.
        key_version: That key's version.
        package_signed: Whether the package as a whole was signed, and not its payload alone.
        file: Name of the sealed file in the packages folder: 32 hex digits.
        file_key: The sealed file's own key, 32 bytes.
        size: Bytes of the clear payload.
    """

    name: str
    vendor: str
    version: Version
    key_name: KeyName
    key_version: int
    package_signed: bool
    file: str
    file_key: Secret
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Everything that outlives the process.

    Args:
        audience: The deployment; fixed at the first start.
        device_id: The device; fixed at the first start.
        sequence: Of the release applied last; 0 before the first.
        release_digest: SHA-256 of its COSE bytes, or None.
        low_water: Latest ``iat`` of a release that was applied, Unix seconds.
        floors: Lowest allowed version by key name; never falls.
        keys: Held versions by key name, ascending.
        packages: Installed packages by id.
        package_floors: Highest version ever installed, by package id; outlives the package.
        signed_packages: Ids that were once installed with a package signature, and need one from then on.
    """

    audience: Audience
    device_id: DeviceId
    sequence: int = 0
    release_digest: bytes | None = None
    low_water: int = 0
    floors: Mapping[KeyName, int] = field(default_factory=dict)
    keys: Mapping[KeyName, tuple[HeldKey, ...]] = field(default_factory=dict)
    packages: Mapping[str, InstalledPackage] = field(default_factory=dict)
    package_floors: Mapping[str, Version] = field(default_factory=dict)
    signed_packages: frozenset[str] = frozenset()

    @property
    def latched_v2(self) -> bool:
        """Whether a release was ever applied, after which keys without a release are refused for good."""
        return self.release_digest is not None


def encode_state(state: State) -> bytes:
    """Return the document; it holds keys in clear and goes nowhere but into the custody's seal.

    Raises:
        StorageError: ``storage_full``; it would be longer than :data:`MAX_DOCUMENT`.
    """
    document = encode_cbor(
        {
            "format": FORMAT,
            "audience": state.audience,
            "device_id": state.device_id,
            "sequence": state.sequence,
            "release_digest": state.release_digest,
            "low_water": state.low_water,
            "floors": dict(state.floors),
            "keys": {
                name: [
                    [held.version, held.key.reveal(), held.algorithm.cose, held.not_after]
                    for held in versions
                ]
                for name, versions in state.keys.items()
            },
            "packages": {cp_id: _encode_package(package) for cp_id, package in state.packages.items()},
            "package_floors": {cp_id: list(version) for cp_id, version in state.package_floors.items()},
            "signed_packages": sorted(state.signed_packages),
        }
    )
    if len(document) > MAX_DOCUMENT:
        raise StorageError(
            f"state: expected at most {MAX_DOCUMENT} bytes, found {len(document)}", code="storage_full"
        )
    return document


def _encode_package(package: InstalledPackage) -> dict[str, object]:
    return {
        "name": package.name,
        "vendor": package.vendor,
        "version": list(package.version),
        "key_name": package.key_name,
        "key_version": package.key_version,
        "package_signed": package.package_signed,
        "file": package.file,
        "file_key": package.file_key.reveal(),
        "size": package.size,
    }


def decode_state(document: bytes) -> State:
    """Return the state that a document holds.

    Raises:
        StorageError: ``state_damaged``, or ``state_format`` for a document of another version of this
            program.
    """
    # The seal held, so these bytes are our own: what does not fit is another program version, or a defect.
    try:
        found = decode_cbor(document, where="state")
        if isinstance(found, dict) and found.get("format") != FORMAT:
            raise StorageError(
                f"state: expected format {FORMAT}, found {found.get('format')!r}", code="state_format"
            )
        return _decode(found)
    except (FormatError, KeyError, TypeError, ValueError) as error:
        # The cause may hold key bytes in its arguments: it is not chained.
        raise StorageError(f"state: {type(error).__name__} in the document", code="state_damaged") from None


def _decode(found: object) -> State:
    if not isinstance(found, dict):
        raise TypeError("a map")
    return State(
        audience=parse_audience(found["audience"], where="state: audience"),
        device_id=parse_device_id(found["device_id"], where="state: device_id"),
        sequence=int(found["sequence"]),
        release_digest=found["release_digest"],
        low_water=int(found["low_water"]),
        floors={parse_key_name(name, where="state"): int(floor) for name, floor in found["floors"].items()},
        keys={
            parse_key_name(name, where="state"): tuple(_decode_key(*parts) for parts in versions)
            for name, versions in found["keys"].items()
        },
        packages={cp_id: _decode_package(package) for cp_id, package in found["packages"].items()},
        package_floors={cp_id: _version(parts) for cp_id, parts in found["package_floors"].items()},
        signed_packages=frozenset(found["signed_packages"]),
    )


def _decode_key(version: int, key: bytes, algorithm: int, not_after: int | None) -> HeldKey:
    return HeldKey(
        version=version, key=Secret(key), algorithm=WrapAlgorithm.from_cose(algorithm), not_after=not_after
    )


def _decode_package(found: Mapping[str, Any]) -> InstalledPackage:
    return InstalledPackage(
        name=found["name"],
        vendor=found["vendor"],
        version=_version(found["version"]),
        key_name=parse_key_name(found["key_name"], where="state"),
        key_version=found["key_version"],
        package_signed=found["package_signed"],
        file=found["file"],
        file_key=Secret(found["file_key"]),
        size=found["size"],
    )


def _version(parts: Sequence[int]) -> Version:
    major, minor, revision = parts
    return (major, minor, revision)

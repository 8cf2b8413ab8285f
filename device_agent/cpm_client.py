"""The port to the Confidential Package Manager, and its adapter over the Unix-socket channel.

The CPM is a process of its own and may go away and come back at any time, with another device key if its
custody makes a new one at every load. So each call opens a connection of its own, and every status names the
key.

Example:
    >>> cpm = SocketCpmClient("/run/cpm/cpm.sock")
    >>> cpm.identify().fingerprint.hex()[:8]
    '5f3c09aa'
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from shared.errors import FormatError
from shared.types import Fingerprint, KeyName, WrapAlgorithm, parse_key_name
from shared.wire.cpm_channel import connect
from shared.wire.cpm_contract import CONTRACT, CpmOperation

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

CALL_SECONDS = 30.0
"""Longest wait for one answer; a release of a hundred RSA-4096 keys takes about one second."""

INSTALL_SECONDS = 3600.0
"""Longest wait for a package to be verified and stored; gigabytes take minutes on a small device."""

MAX_SPKI_BYTES = 1024
"""More than any public key that the protocol knows."""

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceKey:
    """The public half of the CPM's device key.

    Args:
        spki: DER SubjectPublicKeyInfo.
        fingerprint: SHA-256 over it.
        algorithms: What the CPM can unwrap; names that the protocol does not know are left out.
    """

    spki: bytes
    fingerprint: Fingerprint
    algorithms: tuple[WrapAlgorithm, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldKey:
    """The newest version of a class key that the CPM holds, with its key check value if the CPM tells it."""

    version: int
    kcv: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldPackage:
    """A package that the CPM has installed."""

    version: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CpmStatus:
    """What a CPM holds.

    Args:
        device_id: The device that it is pinned to.
        fingerprint: Of its device key now.
        sequence: Of the last release that it applied; 0 if none.
        keys: By class key.
        packages: By package id.
    """

    device_id: str
    fingerprint: Fingerprint
    sequence: int
    keys: Mapping[KeyName, HeldKey]
    packages: Mapping[str, HeldPackage]


@dataclass(frozen=True, slots=True, kw_only=True)
class AppliedRelease:
    """The answer to a release: ``applied`` is False if the CPM had it already."""

    sequence: int
    applied: bool
    versions: Mapping[KeyName, int]


class CpmClient(Protocol):
    """What the agent asks of a CPM.

    Every call raises :class:`~shared.errors.TransportError` ``cpm_unavailable`` if the CPM cannot be reached,
    and what the CPM refuses as the branch of the error tree that it belongs to, with the CPM's code.
    """

    @property
    def judges_releases(self) -> bool:
        """Whether the CPM itself verifies releases; if not, this client does, outside of any protection."""

    def identify(self) -> DeviceKey:
        """Ping the CPM, which wakes one that starts lazily, and return its device key."""

    def status(self) -> CpmStatus:
        """Return what the CPM holds."""

    def apply_release(self, release: bytes, wrapped: Mapping[KeyName, bytes]) -> AppliedRelease:
        """Hand over a signed release and its wrapped keys; the CPM takes all or nothing. Repeat: no-op."""

    def install_application_key(self, name: KeyName, wrapped: bytes) -> None:
        """Hand over one key of version 1 of the protocol. Overwrites the key of that name."""

    def install_package(self, package: Path) -> None:
        """Hand over a package; it is installed when this returns, and otherwise nothing is."""


class SocketCpmClient:
    """A :class:`CpmClient` over :mod:`shared.wire.cpm_channel`.

    Args:
        path: The CPM's socket.
        timeout: Seconds to wait for an answer.
    """

    def __init__(self, path: str, *, timeout: float = CALL_SECONDS) -> None:
        self._path = path
        self._timeout = timeout

    @property
    def judges_releases(self) -> bool:
        """See :attr:`CpmClient.judges_releases`."""
        return True

    def _call(
        self, operation: CpmOperation, arguments: Mapping[str, object] | None = None
    ) -> Mapping[str, object]:
        with connect(self._path, timeout=self._timeout) as cpm:
            return cpm.call(operation.value, arguments)

    def identify(self) -> DeviceKey:
        """See :meth:`CpmClient.identify`.

        Raises:
            FormatError: The CPM speaks another contract, or its answer is none.
        """
        # A reference TA is initialised by ping alone and answers nothing useful before it.
        contract = _field(self._call(CpmOperation.PING), "contract", int)
        if contract != CONTRACT:
            raise FormatError(f"cpm ping: expected contract {CONTRACT}, found {contract}")
        return parse_device_key(self._call(CpmOperation.DEVICE_PUBLIC_KEY))

    def status(self) -> CpmStatus:
        """See :meth:`CpmClient.status`.

        Raises:
            FormatError: The answer is no status.
        """
        return parse_status(self._call(CpmOperation.STATUS))

    def apply_release(self, release: bytes, wrapped: Mapping[KeyName, bytes]) -> AppliedRelease:
        """See :meth:`CpmClient.apply_release`."""
        arguments = {"release": release, "wrapped_keys": dict(wrapped)}
        return parse_applied(self._call(CpmOperation.APPLY_RELEASE, arguments))

    def install_application_key(self, name: KeyName, wrapped: bytes) -> None:
        """See :meth:`CpmClient.install_application_key`."""
        self._call(CpmOperation.INSTALL_APPLICATION_KEY, {"application_id": name, "wrapped_key": wrapped})

    def install_package(self, package: Path) -> None:
        """See :meth:`CpmClient.install_package`.

        Raises:
            FormatError: The file cannot be read.
        """
        try:
            with package.open("rb") as file, connect(self._path, timeout=INSTALL_SECONDS) as cpm:
                cpm.call(CpmOperation.INSTALL.value, fds=[file.fileno()])
        except OSError as error:
            raise FormatError(f"{package}: cannot be read: {error.strerror}") from error


def parse_device_key(reply: Mapping[str, object]) -> DeviceKey:
    """Read the answer to ``device_public_key``.

    Whether the key is one that the protocol knows is for the cloud to judge; here it is only carried.

    Raises:
        FormatError: It is none, or the fingerprint is not the key's.
    """
    spki = _field(reply, "spki", bytes)
    if len(spki) > MAX_SPKI_BYTES:
        raise FormatError(f"cpm reply/spki: expected at most {MAX_SPKI_BYTES} bytes, found {len(spki)}")
    fingerprint = hashlib.sha256(spki).digest()
    if _field(reply, "fingerprint", bytes) != fingerprint:
        raise FormatError("cpm reply/fingerprint: is not the SHA-256 of the key beside it")
    known = {algorithm.value: algorithm for algorithm in WrapAlgorithm}
    names = _field(reply, "algorithms", list)
    return DeviceKey(
        spki=spki,
        fingerprint=Fingerprint(fingerprint),
        algorithms=tuple(known[name] for name in names if isinstance(name, str) and name in known),
    )


def parse_status(reply: Mapping[str, object]) -> CpmStatus:
    """Read the answer to ``status``.

    Raises:
        FormatError: It is none.
    """
    return CpmStatus(
        device_id=_field(reply, "device_id", str),
        fingerprint=Fingerprint(_field(reply, "fingerprint", bytes)),
        sequence=_field(reply, "sequence", int),
        keys={
            parse_key_name(name, where="cpm reply/keys"): _newest(versions, f"cpm reply/keys/{name}")
            for name, versions in _field(reply, "keys", dict).items()
            if versions
        },
        packages={
            _checked(name, str, "cpm reply/packages"): _package(entry, f"cpm reply/packages/{name}")
            for name, entry in _field(reply, "packages", dict).items()
        },
    )


def parse_applied(reply: Mapping[str, object]) -> AppliedRelease:
    """Read the answer to ``apply_release``.

    Raises:
        FormatError: It is none.
    """
    return AppliedRelease(
        sequence=_field(reply, "sequence", int),
        applied=_field(reply, "applied", bool),
        versions={
            parse_key_name(name, where="cpm reply/keys"): _entry(entry, "version", int, "cpm reply/keys")
            for name, entry in _field(reply, "keys", dict).items()
        },
    )


def _newest(versions: object, where: str) -> HeldKey:
    held = [
        HeldKey(version=_entry(entry, "version", int, where), kcv=_entry(entry, "kcv", bytes, where))
        for entry in _checked(versions, list, where)
    ]
    return max(held, key=lambda key: key.version)


def _package(entry: object, where: str) -> HeldPackage:
    return HeldPackage(version=_entry(entry, "version", str, where), state=_entry(entry, "state", str, where))


def _field(reply: Mapping[str, object], name: str, kind: type[_Value]) -> _Value:
    return _checked(reply.get(name), kind, f"cpm reply/{name}")


def _entry(entry: object, name: str, kind: type[_Value], where: str) -> _Value:
    return _checked(_checked(entry, dict, where).get(name), kind, f"{where}/{name}")


def _checked(value: object, kind: type[_Value], where: str) -> _Value:
    if type(value) is not kind:  # exactly: True is no integer here
        raise FormatError(f"{where}: expected {kind.__name__}, found {type(value).__name__}")
    return value

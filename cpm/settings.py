"""The settings of ``cpm serve``: read once at the start, all problems told together."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from cpm.custody.choice import CustodyChoice, parse_custody, parse_pcrs
from cpm.custody.port import DeviceKeyType
from cpm.sandbox import SandboxChoice, find_sandbox
from cpm.service import Pins
from cpm.workload import Limits, Rules
from shared.certificate_paths import TrustStore
from shared.errors import EdbError, FormatError, SettingsError
from shared.types import Audience, DeviceId, parse_audience, parse_device_id

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

MAX_PEM_BYTES = 512 * 1024
"""Longest key or trust file that is read."""

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeSettings:
    """What a CPM is started with.

    Args:
        state: Its state folder.
        socket: Where it listens.
        audience: The deployment it belongs to.
        device_id: The device it is part of.
        custody: What holds its device key.
        key_type: For the device key, at the first start.
        pins: What it trusts and demands.
        allowed_uids: Who may connect.
        quota: Most bytes of sealed payloads; None for no limit but the disk's.
    """

    state: Path
    socket: Path
    audience: Audience
    device_id: DeviceId
    custody: CustodyChoice
    key_type: DeviceKeyType
    pins: Pins
    allowed_uids: frozenset[int]
    quota: int | None = None


class _Problems:
    """Collects what is wrong, so that one start tells everything."""

    def __init__(self) -> None:
        self._found: list[str] = []

    def attempt(self, make: Callable[[], _Value]) -> _Value | None:
        try:
            return make()
        except EdbError as error:
            self._found.append(str(error))
            return None

    def tell(self) -> SettingsError:
        return SettingsError(self._found)


def read_settings(arguments: argparse.Namespace) -> ServeSettings:
    """Read the files that the command line names, and check everything.

    Raises:
        SettingsError: With every problem, each naming its option.
    """
    problems = _Problems()
    audience = problems.attempt(lambda: parse_audience(arguments.audience, where="--audience"))
    device_id = problems.attempt(lambda: parse_device_id(arguments.device_id, where="--device-id"))
    custody = problems.attempt(lambda: custody_of(arguments))
    release_keys = [problems.attempt(partial(_release_key, path)) for path in arguments.release_key]
    trust = [problems.attempt(partial(_trust, path)) for path in arguments.trust]
    roots = tuple(root for store in trust if store is not None for root in store.roots)
    known_keys = [key for key in release_keys if key is not None]
    sandbox = problems.attempt(lambda: find_sandbox(SandboxChoice(arguments.sandbox)))
    if audience is None or device_id is None or custody is None or sandbox is None:
        raise problems.tell()
    if None in release_keys or None in trust:
        raise problems.tell()
    return ServeSettings(
        state=Path(arguments.state),
        socket=Path(arguments.socket),
        audience=audience,
        device_id=device_id,
        custody=custody,
        key_type=DeviceKeyType(arguments.key_type),
        pins=Pins(
            release_keys=known_keys,
            trust=TrustStore(roots=roots),
            require_package_signature=arguments.require_package_signature,
            workloads=Rules(
                sandbox=sandbox,
                limits=Limits(
                    memory=arguments.memory,
                    cpu_seconds=arguments.cpu_seconds,
                    processes=arguments.processes,
                    open_files=arguments.open_files,
                ),
                uid=arguments.workload_uid,
                network_for=frozenset(arguments.allow_network),
                stream_for=frozenset(arguments.allow_stream),
            ),
        ),
        allowed_uids=_allowed(arguments.allow_uid),
        quota=arguments.quota,
    )


def custody_of(arguments: argparse.Namespace) -> CustodyChoice:
    """Return the custody that the command line names.

    Raises:
        FormatError: It is none.
    """
    pcrs = None if arguments.tpm_pcrs is None else parse_pcrs(arguments.tpm_pcrs, where="--tpm-pcrs")
    key_type = DeviceKeyType(arguments.key_type)
    return parse_custody(arguments.custody, pcrs=pcrs, key_type=key_type, where="--custody")


def _allowed(extra: Sequence[int]) -> frozenset[int]:
    """Return who may connect: the CPM's own user, root, and those that were named."""
    return frozenset({0, os.geteuid(), *extra})


def _release_key(path: str) -> ec.EllipticCurvePublicKey:
    where = f"--release-key {path}"
    try:
        key = load_pem_public_key(_read(path, where))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise FormatError(f"{where}: expected a PEM public key") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise FormatError(f"{where}: expected an EC P-256 key, found another kind")
    return key


def _trust(path: str) -> TrustStore:
    where = f"--trust {path}"
    return TrustStore.from_pem(_read(path, where), where=where)


def _read(path: str, where: str) -> bytes:
    try:
        with Path(path).open("rb") as file:
            data = file.read(MAX_PEM_BYTES + 1)
    except OSError as error:
        raise FormatError(f"{where}: {error.strerror or error}") from error
    if len(data) > MAX_PEM_BYTES:
        raise FormatError(f"{where}: expected at most {MAX_PEM_BYTES} bytes, found more")
    return data

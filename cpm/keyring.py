"""The rules for class keys, as functions from one state to the next; nothing here writes.

A release replaces what a device may hold: names that it does not list are forgotten, floors only rise,
versions below them are dropped, and older versions of a listed name stay as long as floor and lease allow,
because packages that were built under them are still about. The first release ends contract version 1 for
good.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from cpm.admission import DeviceKeyKind, KeyStanding, Phase, admit
from cpm.state import HeldKey
from shared.errors import StorageError, VerificationError
from shared.keys.kcv import key_check_value
from shared.keys.wrapping import WrapContext
from shared.release.verifying import Expectation, Verdict, verify_release, verify_signature
from shared.types import KeyName, WrapAlgorithm, parse_key_name
from shared.wire.cpm_contract import CpmOperation

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from cryptography.hazmat.primitives.asymmetric import ec

    from cpm.clock import ProvenClock
    from cpm.custody.port import Custody
    from cpm.state import State
    from shared.release.document import Release
    from shared.types import Secret

V1_VERSION = 1
"""The version that a key of contract version 1 counts as: it says none itself."""

MAX_V1_KEYS = 64
"""Most keys that are held without a release: any client may bring them."""

MAX_KEY_VERSIONS = 32
"""Most versions of a class key that are held; the oldest goes first. A release is never refused for it."""

_V1_ALGORITHMS = (WrapAlgorithm.RSA_OAEP_256, WrapAlgorithm.RSA1_5)


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What became of a release that was accepted.

    Args:
        state: The state from now on.
        release: What the release says.
        changed: False if it was applied before and nothing is to be stored.
    """

    state: State
    release: Release
    changed: bool


def apply_release(
    state: State,
    cose: bytes,
    wrapped_keys: Mapping[str, bytes],
    *,
    release_keys: Sequence[ec.EllipticCurvePublicKey],
    custody: Custody,
    clock: ProvenClock,
) -> Applied:
    """Verify a release, unwrap every key of it, and return the state that follows: all of it or nothing.

    Args:
        state: Before.
        cose: The release.
        wrapped_keys: The wrapped keys, by name.
        release_keys: The pinned ones.
        custody: Holds the device key.
        clock: The time. A release's own ``iat`` counts as proven once its signature holds, so that a device
            without a clock judges leases from there.

    Raises:
        FormatError: It is not a release, or a name is no key name.
        VerificationError: ``signature_invalid`` ``wrong_device`` ``key_mismatch`` ``replay`` ``rollback``
            ``expired`` ``unwrap_failed``.
    """
    wrapped = {parse_key_name(name, where="wrapped_keys"): data for name, data in wrapped_keys.items()}
    issued_at = verify_signature(cose, release_keys, where="release").issued_at
    expected = Expectation(
        audience=state.audience,
        device_id=state.device_id,
        fingerprint=custody.public_key.fingerprint,
        at=clock.now(state.low_water, beside=issued_at),
        last_sequence=state.sequence,
        last_digest=state.release_digest,
        floors=state.floors,
    )
    verdict, release = verify_release(cose, wrapped, release_keys, expected)
    if verdict is Verdict.ALREADY_APPLIED:
        return Applied(state=state, release=release, changed=False)
    opened = {name: _unwrap(state, release, name, wrapped[name], custody=custody) for name in release.keys}
    after = _after_release(state, cose, release, opened)
    return Applied(state=drop_expired(after, at=expected.at), release=release, changed=True)


def _unwrap(state: State, release: Release, name: KeyName, wrapped: bytes, *, custody: Custody) -> HeldKey:
    told = release.keys[name]
    key = custody.unwrap(wrapped, told.algorithm, context=context_of(state, name, told.version))
    return HeldKey(version=told.version, key=key, algorithm=told.algorithm, not_after=told.not_after)


def _after_release(state: State, cose: bytes, release: Release, opened: Mapping[KeyName, HeldKey]) -> State:
    floors = dict(state.floors)
    for name, floor in release.floors.items():
        floors[name] = max(floor, floors.get(name, 1))
    # Keys of contract version 1 came from whoever could write the twin: none outlives the first release.
    held = state.keys if state.latched_v2 else {}
    return replace(
        state,
        sequence=release.sequence,
        release_digest=hashlib.sha256(cose).digest(),
        low_water=max(state.low_water, release.issued_at),
        floors=floors,
        keys={
            name: _with_version(held.get(name, ()), key, floor=floors.get(name, 1))
            for name, key in opened.items()
        },
    )


def _with_version(held: Sequence[HeldKey], key: HeldKey, *, floor: int) -> tuple[HeldKey, ...]:
    kept = [other for other in held if other.version != key.version and other.version >= floor]
    kept = kept[-(MAX_KEY_VERSIONS - 1) :]  # ascending
    return tuple(sorted([*kept, key], key=lambda one: one.version))


def drop_expired(state: State, *, at: datetime) -> State:
    """Return the state without the keys whose lease has ended."""
    keys = {
        name: tuple(held for held in versions if not _is_expired(held, at))
        for name, versions in state.keys.items()
    }
    return replace(state, keys={name: versions for name, versions in keys.items() if versions})


def _is_expired(held: HeldKey, at: datetime) -> bool:
    return held.not_after is not None and at.timestamp() >= held.not_after


def install_v1_key(state: State, application_id: str, wrapped: bytes, *, custody: Custody) -> State:
    """Return the state with a key as contract version 1 brings it: no signature, no version, no lease.

    RSA-OAEP-256 is tried first, then RSA1_5, which a device of that time uses. What RSA1_5 makes of garbage
    may look like a key (see :mod:`shared.keys.unwrapping`); nobody vouches for such a key in any case.

    Raises:
        FormatError: ``name_invalid``, or ``unsupported_algorithm`` if the device key is not RSA.
        VerificationError: ``rollback`` once a release was applied; ``unwrap_failed``.
        StorageError: ``storage_full``; see :data:`MAX_V1_KEYS`.
    """
    admit(CpmOperation.INSTALL_APPLICATION_KEY, phase_of(state))
    name = parse_key_name(application_id, where="application_id")
    usable = [algorithm for algorithm in _V1_ALGORITHMS if algorithm in custody.algorithms]
    kind = DeviceKeyKind.RSA if usable else DeviceKeyKind.OTHER
    admit(CpmOperation.INSTALL_APPLICATION_KEY, kind)
    if name not in state.keys and len(state.keys) >= MAX_V1_KEYS:
        raise StorageError(
            f"class key {name}: {MAX_V1_KEYS} keys without a release are held, and no more are taken",
            code="storage_full",
        )
    key, algorithm = _unwrap_v1(wrapped, usable, context_of(state, name, V1_VERSION), custody)
    held = HeldKey(version=V1_VERSION, key=key, algorithm=algorithm, not_after=None)
    return replace(state, keys={**state.keys, name: (held,)})


def _unwrap_v1(
    wrapped: bytes, algorithms: Sequence[WrapAlgorithm], context: WrapContext, custody: Custody
) -> tuple[Secret, WrapAlgorithm]:
    for algorithm in algorithms[:-1]:
        try:
            return custody.unwrap(wrapped, algorithm, context=context), algorithm
        except VerificationError:
            continue
    return custody.unwrap(wrapped, algorithms[-1], context=context), algorithms[-1]


def select_key(state: State, name: KeyName, version: int | None, *, at: datetime) -> HeldKey:
    """Return the key that a package asks for.

    Args:
        state: Now.
        name: The class key's name.
        version: Which one; None asks for the newest that is held.
        at: The time to judge leases at.

    Raises:
        KeyUnavailable: ``key_revoked`` below the floor, ``key_expired`` after the lease, else
            ``key_unavailable``.
    """
    floor = state.floors.get(name, 1)
    versions = state.keys.get(name, ())
    wanted = [held for held in versions if version is None or held.version == version]
    usable = [held for held in wanted if not _is_expired(held, at)]
    if version is not None and version < floor:
        standing = KeyStanding.REVOKED
    elif not wanted:
        standing = KeyStanding.MISSING
    else:
        standing = KeyStanding.HELD if usable else KeyStanding.EXPIRED
    which = "any version" if version is None else f"version {version}"
    admit(CpmOperation.INSTALL, standing, name=name, which=which, floor=floor)
    return usable[-1]


def phase_of(state: State) -> Phase:
    """Return which contract the device is in."""
    return Phase.LATCHED if state.latched_v2 else Phase.UNRELEASED


def context_of(state: State, name: KeyName, version: int) -> WrapContext:
    """Return whose key it is, as wrapping and check values bind it."""
    return WrapContext(audience=state.audience, device_id=state.device_id, name=name, version=version)


def check_value(state: State, name: KeyName, held: HeldKey) -> bytes:
    """Return the KCV of a held key, 16 bytes."""
    return key_check_value(held.key, context=context_of(state, name, held.version))

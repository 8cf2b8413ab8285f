"""The ports behind which class keys rest: a store of envelopes, and the key that they are sealed under.

A store keeps envelopes (:mod:`shared.keys.envelope`) and never sees what is in them. The key encryption key
(KEK) never leaves its vault: sealing needs its public half alone, opening asks the vault for one small
unwrapping. Protocol section 2.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

from shared.rollout import RolloutState

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from shared.keys.envelope import Kek
    from shared.rollout import Rollout
    from shared.types import KeyName, Secret

ALGORITHM_BITS = {"aes-gcm-128": 128, "aes-gcm-192": 192, "aes-gcm-256": 256}
"""Algorithms of class keys, as an envelope names them, and their strength in bits."""


class VersionState(enum.Enum):
    """What may be done with a version of a class key; only an active one is wrapped for anybody."""

    ACTIVE = "active"
    REVOKED = "revoked"
    ABORTED = "aborted"
    DISABLED = "disabled"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"


_NOT_FOR_ALL = frozenset({VersionState.NOT_YET_VALID, VersionState.ABORTED})


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassKeyVersion:
    """One version of a class key, as it was when the store was asked.

    Args:
        version: From 1.
        state: The first that holds of: below the floor, its rollout aborted, disabled, expired, not yet
            valid, active.
        created_at: When it was stored, aware.
        expires_at: From when on it is wrapped for nobody, aware; None for never.
        rollout: How far it is on its way to the fleet; None if it went to all at once.
    """

    version: int
    state: VersionState
    created_at: datetime
    expires_at: datetime | None = None
    rollout: Rollout | None = None

    @property
    def is_staged(self) -> bool:
        """Whether a part of the fleet alone is to have it so far."""
        return self.rollout is not None and self.rollout.state is RolloutState.STAGED


@dataclass(frozen=True, kw_only=True)
class ClassKeyState:
    """What a store tells of a class key without opening it.

    Args:
        floor: Lowest version that may still be wrapped for anybody; 1 if none was revoked. A floor above
            ``latest`` means that the key is revoked as a whole.
        algorithm: Of its newest version, one of :data:`ALGORITHM_BITS`.
        versions: All that were made, oldest first, in whatever state; at least one.
    """

    floor: int
    algorithm: str
    versions: tuple[ClassKeyVersion, ...]

    @property
    def latest(self) -> int:
        """The newest version's number, whatever its state: the next one follows it."""
        return self.versions[-1].version

    @cached_property
    def current(self) -> int | None:
        """The version that builds and, unless a staged one reaches them, devices are given; None for none.

        It is the newest version whose time has come and whose rollout, if it had one, is finished, if that
        version is active. What is revoked, disabled or expired never gives way to an older version: going
        back would undo the rotation that made it. What is staged or aborted does: it was never there for all.
        """
        newest = self.newest_finished
        return newest.version if newest is not None and newest.state is VersionState.ACTIVE else None

    @cached_property
    def newest_finished(self) -> ClassKeyVersion | None:
        """The newest version that is there for all and whose time has come, whatever else it is."""
        for each in reversed(self.versions):
            if each.state not in _NOT_FOR_ALL and not each.is_staged:
                return each
        return None

    @cached_property
    def unfinished(self) -> ClassKeyVersion | None:
        """The version whose rollout is under way, whether or not it may be wrapped; None if none is."""
        latest = self.versions[-1]
        is_over = latest.state in {VersionState.REVOKED, VersionState.ABORTED}
        return latest if latest.is_staged and not is_over else None

    @cached_property
    def staged(self) -> ClassKeyVersion | None:
        """The version that the devices which its rollout reaches are given; None if there is none.

        One that is disabled, expired or not yet valid is given to nobody, and they keep the version that all
        others have: it is not undone, it never was done.
        """
        latest = self.versions[-1]
        return latest if latest.is_staged and latest.state is VersionState.ACTIVE else None

    def version_for(self, device_id: str) -> int | None:
        """Return the version that a device is given: the staged one if it is reached, else the current one.

        Args:
            device_id: Device id, or ``device/module``.
        """
        staged = self.staged
        if staged is not None and staged.rollout is not None and staged.rollout.reaches(device_id):
            return staged.version
        return self.current

    @cached_property
    def key_bytes(self) -> int:
        """Length of the key in bytes: 16, 24 or 32."""
        return ALGORITHM_BITS[self.algorithm] // 8

    def version(self, number: int) -> ClassKeyVersion | None:
        """Return one version, or None if there is no such version."""
        return next((each for each in self.versions if each.version == number), None)


class ClassKeyStore(Protocol):
    """Where the envelopes of class keys rest, every version of them.

    All operations raise :class:`shared.errors.TransportError` if the store cannot be reached or refuses for
    now. One that was cut off half-way leaves what was there before readable, and can be repeated: it then
    goes through, or tells what stands in its way.
    """

    def states(self) -> Mapping[KeyName, ClassKeyState]:
        """Return every class key's state; what is no class key, or was deleted, is left out."""
        ...

    def state(self, name: KeyName) -> ClassKeyState:
        """Return one class key's state.

        Raises:
            NotFound: ``key_not_found``.
            Conflict: ``name_taken``, something that is not this class key stands under its name.
        """
        ...

    def create(
        self,
        name: KeyName,
        envelope: str,
        *,
        algorithm: str,
        expires_at: datetime | None = None,
        request: str | None = None,
    ) -> None:
        """Store version 1 of a new class key; never overwrites.

        Args:
            name: The new class key's.
            envelope: What is stored.
            algorithm: One of :data:`ALGORITHM_BITS`.
            expires_at: From when on it is wrapped for nobody, aware; None for never.
            request: Stays with the version and is told by :meth:`requests`; up to 128 characters.

        Raises:
            Conflict: ``key_exists``; ``name_taken`` as for :meth:`state`; ``key_deleted`` if it was deleted
                and can still be recovered.
        """
        ...

    def add_version(
        self,
        name: KeyName,
        envelope: str,
        *,
        version: int,
        algorithm: str,
        expires_at: datetime | None = None,
        request: str | None = None,
        rollout: Rollout | None = None,
    ) -> None:
        """Store the version that follows the newest one; the floor stays.

        Args:
            name: The class key's.
            envelope: What is stored.
            version: The newest one plus 1.
            algorithm: One of :data:`ALGORITHM_BITS`.
            expires_at: As for :meth:`create`.
            request: As for :meth:`create`.
            rollout: How it goes to the fleet; it is never there without that. None for to all at once.

        Raises:
            NotFound: ``key_not_found``.
            Conflict: ``version_exists``, somebody else was first, or ``version`` does not follow the newest.
        """
        ...

    def set_rollout(self, name: KeyName, rollout: Rollout, *, version: int, expected: Rollout) -> None:
        """Store how far a version's rollout is; of several at the same time at most one does.

        The version's times and the floor stay. A version whose rollout was aborted is never read again.

        Args:
            name: The class key's.
            rollout: From now on.
            version: Whose.
            expected: How far it has to be until now.

        Raises:
            NotFound: ``key_not_found``; there is no such key or version.
            Conflict: ``rollout_changed``, it is not as expected, or somebody else is changing it.
            KeyUnavailable: ``key_disabled``; only aborting does not need the version to be enabled.
        """
        ...

    def replace_envelope(self, name: KeyName, envelope: str, *, version: int) -> None:
        """Store another envelope of a version; the old one is read until this one can be.

        The version's state, its times, its rollout and the floor stay.

        Raises:
            NotFound: ``key_not_found``; there is no such key or version.
            Conflict: ``version_exists``, somebody else is replacing it.
        """
        ...

    def requests(self, name: KeyName) -> Mapping[int, str]:
        """Return by version what :meth:`create` and :meth:`add_version` were given as ``request``.

        Versions in every state count; an unknown class key has none.

        Raises:
            Conflict: ``name_taken`` as for :meth:`state`.
        """
        ...

    def raise_floor(self, name: KeyName, floor: int) -> int:
        """Raise the floor and return it; a floor that is already higher stays, and repeating changes nothing.

        Raises:
            NotFound: ``key_not_found``, or there is no version just below ``floor``.
        """
        ...

    def read(self, name: KeyName, version: int) -> str:
        """Return the envelope of one version.

        Raises:
            NotFound: ``key_not_found``; there is no such key, or no such version of it.
            KeyUnavailable: ``key_disabled``, or ``key_aborted`` if its rollout was.
        """
        ...

    def delete(self, name: KeyName) -> datetime | None:
        """Delete a class key with all its versions, so that it can be recovered; repeating changes nothing.

        Returns:
            Until when it can be recovered, aware; None if the store does not say.

        Raises:
            NotFound: ``key_not_found``; there is none, and none was deleted.
            Conflict: ``name_taken``.
        """
        ...

    def recover(self, name: KeyName) -> None:
        """Bring a deleted class key back as it was; one that is there stays as it is.

        Raises:
            NotFound: ``key_not_found``; there is none, and none was deleted.
            Conflict: ``name_taken``.
        """
        ...


class KeyEncryptionKey(Protocol):
    """The KEK: its public half, and the vault's unwrapping with its private half."""

    def current(self) -> Kek:
        """Return the public half of the current version, as the vault has it now.

        Raises:
            KeyUnavailable: ``key_unfit``, the key is not of the kind, size or use that it must be.
            TransportError: The vault cannot be reached or refuses for now.
        """
        ...

    def unwrap(self, kid: str, encrypted_key: bytes) -> Secret:
        """Unwrap with RSA-OAEP-256 under the version that ``kid`` names.

        Raises:
            VerificationError: ``foreign_kek`` if ``kid`` is no version of the configured KEK (the vault is
                not asked); ``unwrap_failed`` if the vault cannot unwrap it.
            TransportError: The vault cannot be reached or refuses for now.
        """
        ...

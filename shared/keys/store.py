"""The ports behind which class keys rest: a store of envelopes, and the key that they are sealed under.

A store keeps envelopes (:mod:`shared.keys.envelope`) and never sees what is in them. The key encryption key
(KEK) never leaves its vault: sealing needs its public half alone, opening asks the vault for one small
unwrapping. Protocol section 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared.keys.envelope import Kek
    from shared.types import KeyName, Secret

ALGORITHM_BITS = {"aes-gcm-128": 128, "aes-gcm-192": 192, "aes-gcm-256": 256}
"""Algorithms of class keys, as an envelope names them, and their strength in bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClassKeyState:
    """What a store tells of a class key without opening it.

    Args:
        latest: Its newest version, from 1.
        floor: Lowest version that may still be wrapped for anybody; 1 if none was revoked. A floor above
            ``latest`` means that the key is revoked as a whole.
        algorithm: One of :data:`ALGORITHM_BITS`.
    """

    latest: int
    floor: int
    algorithm: str

    @property
    def key_bytes(self) -> int:
        """Length of the key in bytes: 16, 24 or 32."""
        return ALGORITHM_BITS[self.algorithm] // 8

    @property
    def is_live(self) -> bool:
        """Whether the newest version may be wrapped."""
        return self.latest >= self.floor


class ClassKeyStore(Protocol):
    """Where the envelopes of class keys rest, every version of them.

    All operations raise :class:`shared.errors.TransportError` if the store cannot be reached or refuses for
    now.
    """

    def states(self) -> Mapping[KeyName, ClassKeyState]:
        """Return every class key's state, in one pass over the store; what is no class key is left out."""
        ...

    def state(self, name: KeyName) -> ClassKeyState:
        """Return one class key's state.

        Raises:
            NotFound: ``key_not_found``.
            Conflict: ``name_taken``, something that is not this class key stands under its name.
        """
        ...

    def create(self, name: KeyName, envelope: str, *, algorithm: str, request: str | None = None) -> None:
        """Store version 1 of a new class key; never overwrites.

        Args:
            name: The new class key's.
            envelope: What is stored.
            algorithm: One of :data:`ALGORITHM_BITS`.
            request: Stays with the version and is told by :meth:`requests`; up to 128 characters.

        Raises:
            Conflict: ``key_exists``; ``name_taken`` as for :meth:`state`; ``key_deleted`` if it was deleted
                and can still be recovered.
        """
        ...

    def add_version(
        self, name: KeyName, envelope: str, *, version: int, algorithm: str, request: str | None = None
    ) -> None:
        """Store the version that follows the newest one; the floor stays.

        Args:
            name: The class key's.
            envelope: What is stored.
            version: The newest one plus 1.
            algorithm: One of :data:`ALGORITHM_BITS`.
            request: As for :meth:`create`.

        Raises:
            NotFound: ``key_not_found``.
            Conflict: ``version_exists``, somebody else was first, or ``version`` does not follow the newest.
        """
        ...

    def requests(self, name: KeyName) -> Mapping[int, str]:
        """Return by version what :meth:`create` and :meth:`add_version` were given as ``request``.

        Revoked and disabled versions count; an unknown class key has none.

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
        """
        ...


class KeyEncryptionKey(Protocol):
    """The KEK: its public half, and the vault's unwrapping with its private half."""

    def current(self) -> Kek:
        """Return the public half of the current version.

        Raises:
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

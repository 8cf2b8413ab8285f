"""The custody port: what holds the device key and the storage root, and never gives either away."""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from shared.keys.wrapping import WrapContext
    from shared.public_keys import PublicKey
    from shared.types import Secret, WrapAlgorithm


class DeviceKeyType(enum.Enum):
    """What kind of device key to make at the first start."""

    RSA2048 = "rsa2048"
    RSA3072 = "rsa3072"
    RSA4096 = "rsa4096"
    P256 = "p256"
    X25519 = "x25519"


class MonotonicCounter(Protocol):
    """A number that only ever rises, whatever becomes of the disk: what tells an old copy from the newest.

    Nobody but the CPM can raise it without being noticed, and nobody can lower it.
    """

    def read(self) -> int:
        """Return the number.

        Raises:
            VerificationError: ``rollback``; the counter is gone, or is not the one that was made.
            TransportError: ``custody_unavailable``.
        """
        ...

    def increment(self) -> None:
        """Add one. After an error it may have been added or not.

        Raises:
            VerificationError: As for :meth:`read`.
            TransportError: As for :meth:`read`.
        """
        ...


class Custody(Protocol):
    """The device key, which opens wrapped class keys, and the storage root, which seals the CPM's own state.

    Both are made at the first start and stay the same from then on. Calls may come from several threads.
    """

    @property
    def counter(self) -> MonotonicCounter | None:
        """What the state's generations are counted with; None where nothing can count."""
        ...

    def close(self) -> None:
        """Let go of the hardware. Nothing else is called afterwards; closing again does nothing."""
        ...

    @property
    def public_key(self) -> PublicKey:
        """The device key's public half."""
        ...

    @property
    def algorithms(self) -> tuple[WrapAlgorithm, ...]:
        """What :meth:`unwrap` can open, the default first."""
        ...

    @property
    def fresh(self) -> bool:
        """Whether the device key was made at this start and :meth:`commit` has not yet been called."""
        ...

    def commit(self) -> None:
        """Make a fresh device key last; one that was never committed may be another at the next start.

        Called once the state that belongs to it is on disk, so that a device key that lasts always has its
        state: a folder that lost it is damaged, and never mistaken for a new one. Does nothing if not fresh.

        Raises:
            StorageError: It could not be stored.
        """
        ...

    def unwrap(self, wrapped: bytes, algorithm: WrapAlgorithm, *, context: WrapContext) -> Secret:
        """Open a class key that was wrapped for the device key.

        Raises:
            VerificationError: ``unwrap_failed``, whatever is wrong with ``wrapped``.
            TransportError: ``custody_unavailable``; the hardware did not answer, whatever ``wrapped`` is.
        """
        ...

    def seal(self, content: bytes, *, purpose: str) -> bytes:
        """Return ``content`` encrypted and authenticated under the storage root.

        Every call gives other bytes.

        Args:
            content: At most a few MiB.
            purpose: What it is; sealed for one purpose opens for no other.
        """
        ...

    def unseal(self, sealed: bytes, *, purpose: str) -> bytes:
        """Return what :meth:`seal` was given.

        Raises:
            StorageError: ``state_damaged``; not sealed by this storage root for this purpose, or changed
                since.
        """
        ...

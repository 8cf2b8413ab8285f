"""What the reconciling side needs from the world: a registry of twins, and a signer of releases."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from cryptography.hazmat.primitives.asymmetric import ec

    from shared.types import DeviceId, KeyName


@dataclass(frozen=True, slots=True, kw_only=True)
class Twin:
    """A device's or module's twin as the hub holds it; nothing in it is checked.

    Args:
        device_id: Device id, or ``device/module``.
        etag: Moves with every change of tags or desired.
        status: ``enabled`` or ``disabled``: whether the hub lets the device in.
        tags: Written by services only.
        desired: Written by services, read by the device.
        reported: Written by the device, read by services.
    """

    device_id: DeviceId
    etag: str
    status: str
    tags: Mapping[str, object]
    desired: Mapping[str, object]
    reported: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinPage:
    """Some twins, and the token that asks for the next ones; None after the last."""

    twins: Sequence[Twin]
    next_token: str | None


class TwinRow(NamedTuple):
    """What a query tells of one twin; nothing in it is checked.

    Args:
        device_id: Device id, or ``device/module``.
        status: ``enabled`` or ``disabled``.
        tags: All of them.
        desired_version: ``$version`` of desired.
        sequence: What the device reports of the last release applied.
        fingerprint: What it reports as its key's.
        algorithms: What it reports that it can unwrap.
        failed: What it reports about keys that it could not take.
        key_updated: When ``device_public_key`` was reported last.
        certificate_updated: When ``device_cert`` was reported last.
    """

    device_id: object
    status: object
    tags: object
    desired_version: object
    sequence: object
    fingerprint: object
    algorithms: object
    failed: object
    key_updated: object
    certificate_updated: object


@dataclass(frozen=True, slots=True, kw_only=True)
class RowPage:
    """Some rows, and the token that asks for the next ones; None after the last."""

    rows: Sequence[TwinRow]
    next_token: str | None


class HolderRow(NamedTuple):
    """What a query tells of one who holds a class key or was given it; nothing in it is checked.

    Args:
        device_id: Device id, or ``device/module``.
        given_at: When the class key was last written into desired; None if it is not there.
        staged: The version that the outcome tag says a rollout gave it.
        report: What it reports of the class key.
        outcome: The outcome tag's state.
    """

    device_id: object
    given_at: object
    staged: object
    report: object
    outcome: object


@dataclass(frozen=True, slots=True, kw_only=True)
class HolderPage:
    """Some holders, and the token that asks for the next ones; None after the last."""

    rows: Sequence[HolderRow]
    next_token: str | None


class TwinRegistry(Protocol):
    """The hub's twins.

    All operations raise :class:`shared.errors.TransportError` if the hub cannot be reached or keeps refusing.
    """

    def read(self, device_id: DeviceId) -> Twin:
        """Return a twin.

        Raises:
            NotFound: ``device_not_found``.
        """
        ...

    def patch(self, device_id: DeviceId, patch: Mapping[str, object], *, etag: str) -> None:
        """Merge a patch ``{"tags"?: …, "properties"?: {"desired": …}}`` into a twin, wholly or not at all.

        Raises:
            Conflict: ``twin_conflict``, tags or desired changed since the twin with this ETag was read.
            NotFound: ``device_not_found``.
            FormatError: The hub refuses the patch itself.
        """
        ...

    def rows(self, *, token: str | None) -> RowPage:
        """Return a page of those who have anything to do with class keys.

        That is: who reports a device key, or holds class keys or a release in desired. The answer may lag
        behind :meth:`read` and may name devices that are gone.

        Args:
            token: None for the first page, then the page's ``next_token``.

        Raises:
            FormatError: ``token`` is none of this registry's.
        """
        ...

    def page(
        self, *, token: str | None, size: int, state: str | None = None, reason: str | None = None
    ) -> TwinPage:
        """Return a page of the twins that bear an outcome tag.

        Args:
            token: None for the first page, then the ``next_token`` of a page of the same filters.
            size: Twins at most, up to 1,000.
            state: Only twins whose tag tells this state.
            reason: Only twins whose tag tells this reason.

        Raises:
            FormatError: ``token`` is none of this registry's, or a filter is no word of ``a-z 0-9 _``.
        """
        ...

    def holders(
        self,
        name: KeyName,
        *,
        token: str | None,
        size: int,
        version: int | None = None,
        state: str | None = None,
    ) -> HolderPage:
        """Return a page of those who report a class key or hold it in desired; it may lag as :meth:`rows`.

        Args:
            name: The class key's.
            token: None for the first page, then the ``next_token`` of a page of the same filters.
            size: Rows at most, up to 1,000.
            version: Only who reports this version, or whose tag tells that a rollout gave it.
            state: Only who reports this state of it.

        Raises:
            FormatError: ``token`` is none of this registry's, or ``state`` is no word of ``a-z``.
        """
        ...


class ReleaseSigner(Protocol):
    """The release key: signs, and tells the public keys that releases may bear.

    All operations raise :class:`shared.errors.TransportError` if the vault cannot be reached or refuses.
    """

    def key_id(self) -> str:
        """Return the full id of the current version, which :meth:`sign` takes and a release bears."""
        ...

    def public_keys(self) -> Sequence[ec.EllipticCurvePublicKey]:
        """Return the public halves of every version that is enabled."""
        ...

    def sign(self, digest: bytes, *, key_id: str) -> bytes:
        """Sign a SHA-256 digest with ES256 under the version that :meth:`key_id` named.

        Returns:
            The signature, 64 bytes r‖s.
        """
        ...

"""The floor under the policy's serial, in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.errors import TransportError
from shared.policy.floor import FLOOR_NONE, Floor

if TYPE_CHECKING:
    from shared.policy.document import Policy


class MemoryFloor:
    """A :class:`functions.policy_source.FloorStore`.

    Attributes:
        seen: Serials and digests that were in force; a test that restarts an app keeps them.
        is_away: Whether it cannot be reached.
    """

    def __init__(self) -> None:
        self.seen: set[tuple[int, bytes]] = set()
        self.is_away = False

    def read(self) -> Floor:
        self._reach()
        if not self.seen:
            return FLOOR_NONE
        highest = max(serial for serial, _ in self.seen)
        return Floor(
            serial=highest, digests=frozenset(digest for serial, digest in self.seen if serial == highest)
        )

    def raise_to(self, policy: Policy) -> None:
        self._reach()
        self.seen.add((policy.serial, policy.digest))

    def _reach(self) -> None:
        if self.is_away:
            raise TransportError("the vault is away", code="vault_unavailable")

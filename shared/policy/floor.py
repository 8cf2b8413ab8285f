"""The floor under a policy's serial: what was in force once is not followed by anything older (section 7).

A floor knows the highest serial seen and the digest of the document that bore it. A lower serial is a
roll-back; the same serial over other bytes is two policies under one number, of which nobody could tell
which one decided.

Example:
    >>> FLOOR_NONE.admit(policy, where="policy.json")
    >>> floor = Floor(serial=policy.serial, digests=frozenset({policy.digest}))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from shared.errors import VerificationError

if TYPE_CHECKING:
    from shared.policy.document import Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Floor:
    """The highest serial that was in force.

    Args:
        serial: -1 if none ever was.
        digests: SHA-256 of each document seen with it. More than one admits none of them: a higher serial
            has to come.
    """

    serial: int
    digests: frozenset[bytes]

    def admit(self, policy: Policy, *, where: str) -> None:
        """Let a policy pass that is above the floor, or is the floor.

        Raises:
            VerificationError: ``policy_rollback``, its serial is lower; ``policy_serial_reused``, its
                serial is the floor's and its bytes are not.
        """
        if policy.serial < self.serial:
            raise VerificationError(
                f"{where}: expected a serial of {self.serial} or above, found {policy.serial}",
                code="policy_rollback",
            )
        if policy.serial == self.serial and self.digests != {policy.digest}:
            raise VerificationError(
                f"{where}: serial {policy.serial} was in force with other bytes; raise the serial",
                code="policy_serial_reused",
            )


FLOOR_NONE: Final = Floor(serial=-1, digests=frozenset())
"""The floor where no policy was ever in force."""

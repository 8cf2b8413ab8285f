"""The connection to the hub, as seen from the agent: when it may be tried, and what its losses mean.

Two clients with one identity throw each other out of the hub, as fast as they come back. So waits start
afresh only after a connection that stood for a while, and connections that are lost young, one after the
other, are told of as a duplicate identity and waited after for minutes.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from device_agent.backoff import Backoff
from device_agent.device_clock import is_plausible, utc_text
from device_agent.twin_link import UNAUTHORIZED
from shared.errors import TransportError

if TYPE_CHECKING:
    from device_agent.device_clock import Clock
    from device_agent.health import Tally
    from device_agent.twin_link import Notify, TwinLink

FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0

UNAUTHORIZED_SECONDS = 60.0
"""Wait after the hub refused the device itself; somebody has to act first."""

STABLE_SECONDS = 60.0
"""A connection that stood as long was a good one."""

YOUNG_LOSSES = 3
"""Connections lost young, one after the other, that make a duplicate identity likely."""

DUPLICATE_WAIT_SECONDS = 60.0
LONGEST_DUPLICATE_WAIT_SECONDS = 600.0

SETTLED_SECONDS = 600.0
"""A connection that stood as long ends the suspicion of a duplicate."""

_log = logging.getLogger("device_agent")


class HubWatch:
    """The hub.

    Args:
        link: The connection.
        notify: Where its events go.
        tally: What happens is counted there.
        clock: Monotonic seconds.
        wall: Unix seconds.

    Attributes:
        online: Whether a connection was made and nothing says that it is gone.
        due: When the next one may be tried.
        refused: Whether the hub refused the device itself when it was asked last.
    """

    def __init__(self, link: TwinLink, *, notify: Notify, tally: Tally, clock: Clock, wall: Clock) -> None:
        self._link, self._notify, self._tally = link, notify, tally
        self._clock, self._wall = clock, wall
        self._backoff = Backoff(first=FIRST_WAIT_SECONDS, longest=LONGEST_WAIT_SECONDS)
        self._duplicate_backoff = Backoff(
            first=DUPLICATE_WAIT_SECONDS, longest=LONGEST_DUPLICATE_WAIT_SECONDS
        )
        self._since = clock()
        self._young_losses = 0
        self.online = False
        self.due = clock()
        self.refused = False

    @property
    def dropped_again_and_again(self) -> bool:
        """Whether another client with this identity is likely."""
        if self.online and self._clock() - self._since >= SETTLED_SECONDS:
            return False
        return self._young_losses >= YOUNG_LOSSES

    def connect(self) -> bool:
        """Connect; a hub that is away is tried again with growing waits, one that refuses us rarely."""
        try:
            self._link.connect(self._notify)
        except TransportError as error:
            self._failed(error)
            return False
        self.online, self.refused, self._since = True, False, self._clock()
        self._tally.connections += 1
        _log.info("connected", extra={"device_id": self._link.device_id})
        return True

    def _failed(self, error: TransportError) -> None:
        self.refused = error.code == UNAUTHORIZED
        wait = self._backoff.after_failure()
        if self.refused:
            wait = UNAUTHORIZED_SECONDS
        self.due = self._clock() + wait
        self._tally.connect_failures += 1
        self._tally.failed(error.code, str(error))
        told: dict[str, object] = {
            "code": error.code,
            "reason": str(error),
            "retry_in_seconds": round(wait, 1),
        }
        if not is_plausible(now := self._wall()):
            told["clock"] = utc_text(now)  # certificates and tokens are judged by it
        _log.warning("connect_failed", extra=told)

    def leave(self, reason: str) -> None:
        """Drop the connection: after a loss, or a failed call, nothing about it is sure."""
        self._link.disconnect()
        stood = self._clock() - self._since
        if stood >= (SETTLED_SECONDS if self._young_losses >= YOUNG_LOSSES else STABLE_SECONDS):
            self._young_losses = 0
            self._backoff.reset()
            self._duplicate_backoff.reset()
        else:
            self._young_losses += 1
        self.online = False
        wait = self._backoff.after_failure()
        _log.warning("disconnected", extra={"device_id": self._link.device_id, "reason": reason})
        if self._young_losses >= YOUNG_LOSSES:
            wait = self._duplicate_backoff.after_failure()
            self._tell_duplicate(wait)
        self.due = self._clock() + wait
        self._tally.disconnections += 1
        self._tally.failed("disconnected", reason)

    def _tell_duplicate(self, wait: float) -> None:
        _log.error(
            "duplicate_identity_suspected",
            extra={
                "device_id": self._link.device_id,
                "reason": f"{self._young_losses} connections in a row were lost young: another client may "
                "have this identity",
                "retry_in_seconds": round(wait, 1),
            },
        )

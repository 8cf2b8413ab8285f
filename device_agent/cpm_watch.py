"""What the agent knows of its CPM: the device key, what it holds, and whether it is there."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from device_agent.backoff import Backoff
from shared.errors import EdbError, TransportError

if TYPE_CHECKING:
    from device_agent.cpm_client import CpmClient, CpmStatus, DeviceKey
    from device_agent.device_clock import Clock
    from device_agent.health import Tally

FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 300.0

_log = logging.getLogger("device_agent")


class CpmWatch:
    """The CPM, as seen from the agent. A CPM that cannot be asked is not an error here: it is asked again.

    Args:
        cpm: The package manager.
        tally: What happens is counted there.
        clock: Monotonic seconds.

    Attributes:
        key: Its device key, as it said last; None before it first answered.
        status: What it holds, likewise.
        known: Whether it answered, and nothing since says that it went away or is another one.
        due: When it may be asked again.
    """

    def __init__(self, cpm: CpmClient, tally: Tally, clock: Clock) -> None:
        self._cpm, self._tally = cpm, tally
        self._clock = clock
        self._backoff = Backoff(first=FIRST_WAIT_SECONDS, longest=LONGEST_WAIT_SECONDS)
        self._told = False
        self._gone_at = clock()
        self.key: DeviceKey | None = None
        self.status: CpmStatus | None = None
        self.known = False
        self.due = clock()

    @property
    def seconds_gone(self) -> float:
        """For how long it has not been known; 0 if it is."""
        return 0.0 if self.known else self._clock() - self._gone_at

    def identify(self) -> bool:
        """Ask for the device key and the status.

        Returns:
            Whether it answered.
        """
        try:
            key, status = self._cpm.identify(), self._cpm.status()
            if key.fingerprint != status.fingerprint:
                raise TransportError("the cpm was restarted just now", code="cpm_unavailable")
        except EdbError as error:
            self.missed(error)
            return False
        self.key, self.status = key, status
        self.known, self._told = True, False
        self._backoff.reset()
        return True

    def refresh(self) -> None:
        """Ask for the status; a CPM whose key is another or whose store is older is not known any more."""
        before = self.status
        try:
            status = self._cpm.status()
        except EdbError as error:
            self.missed(error)
            return
        if before is not None and (
            status.fingerprint != before.fingerprint or status.sequence < before.sequence
        ):
            self._lose()
            self.wait()
        else:
            self.status = status

    def missed(self, error: EdbError) -> None:
        """Note that it could not be asked; logged once until it answers."""
        self._lose()
        if not self._told:
            _log.warning("cpm_unavailable", extra={"code": error.code, "reason": str(error)})
            self._told = True
        self._tally.failed(error.code, str(error))
        self.wait()

    def wait(self) -> None:
        """Put the next attempt off, longer each time."""
        self.due = self._clock() + self._backoff.after_failure()

    def succeeded(self) -> None:
        """Note that what it was asked went well."""
        self._backoff.reset()

    def _lose(self) -> None:
        if self.known:
            self.known, self._gone_at = False, self._clock()
            self._tally.cpm_losses += 1

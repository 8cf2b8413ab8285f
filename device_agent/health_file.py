"""The health file: JSON that a supervisor, a container's health check or a person reads.

It is replaced atomically whenever something in it changes, at least every 30 seconds, and at most once a
second. It is removed at an orderly end. After a crash it stays, so a reader looks at ``at``: older than two
minutes, nobody is writing it. It needs not outlive a power cut; a folder under ``/run`` spares the disk.
"""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from device_agent.files import PUBLIC, replace_file
from device_agent.health import health_document
from shared.errors import StorageError

if TYPE_CHECKING:
    from pathlib import Path

    from device_agent.device_clock import Clock
    from device_agent.health import Health

AT_LEAST_EVERY_SECONDS = 30.0
AT_MOST_EVERY_SECONDS = 1.0

_log = logging.getLogger("device_agent")


class HealthFile:
    """Writes it.

    Args:
        path: Where.
        clock: Monotonic seconds.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path, self._clock = path, clock
        self._written: dict[str, object] | None = None
        self._written_at = 0.0
        self._told = False

    def show(self, health: Health) -> float | None:
        """Write it if that is due.

        Returns:
            Seconds after which to call again though nothing else happens; None if it is up to date.
        """
        document = health_document(health)
        unchanged = self._written == {**document, "at": None}
        age = self._clock() - self._written_at
        if self._written is not None:
            if unchanged and age < AT_LEAST_EVERY_SECONDS:
                return None
            if age < AT_MOST_EVERY_SECONDS:
                return AT_MOST_EVERY_SECONDS - age
        self._write(document)
        return None

    def _write(self, document: dict[str, object]) -> None:
        self._written, self._written_at = {**document, "at": None}, self._clock()
        try:
            replace_file(
                self._path, json.dumps(document, indent=1).encode() + b"\n", mode=PUBLIC, durable=False
            )
        except StorageError as error:
            if not self._told:
                _log.error("health_not_written", extra={"reason": str(error)})
            self._told = True
        else:
            self._told = False

    def remove(self) -> None:
        """Remove it: nobody is writing it any more."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("health_not_removed", extra={"reason": error.strerror})

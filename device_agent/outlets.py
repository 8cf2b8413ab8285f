"""Where the agent shows how it is doing: the health file and the metrics endpoint, each if it is set."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Self

from device_agent.health_file import HealthFile

if TYPE_CHECKING:
    from types import TracebackType

    from device_agent.health import Health
    from device_agent.metrics import MetricsEndpoint
    from device_agent.settings import Settings

_log = logging.getLogger("device_agent")


class Outlets:
    """Both of them, open within a context.

    Args:
        settings: Say which.

    Raises:
        TransportError: The metrics cannot be served where the settings say.
    """

    def __init__(self, settings: Settings) -> None:
        self._file = (
            None if settings.health_file is None else HealthFile(settings.health_file, time.monotonic)
        )
        self._metrics: MetricsEndpoint | None = None
        if settings.metrics is not None:
            # Its library is loaded for those that want it.
            from device_agent.metrics import MetricsEndpoint  # noqa: PLC0415

            self._metrics = MetricsEndpoint(settings.metrics)
            where = {"address": settings.metrics.address, "port": self._metrics.port}
            _log.info("metrics", extra=where)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.remove()
        if self._metrics is not None:
            self._metrics.close()

    def show(self, health: Health, *, wait: float) -> float:
        """Show it.

        Args:
            health: What to show.
            wait: Seconds that the agent would wait for an event.

        Returns:
            Seconds that it may wait.
        """
        if self._metrics is not None:
            self._metrics.show(health)
        again = None if self._file is None else self._file.show(health)
        return wait if again is None else min(wait, again)

"""The agent's health for Prometheus, on a port of its own; loopback unless the settings say otherwise.

========================================  =======  ======================================================
metric                                    type     meaning
========================================  =======  ======================================================
``device_agent_state``                    gauge    1 for the state that it is in, by label ``state``
``device_agent_hub_connected``            gauge    1 while the connection to the hub stands
``device_agent_cpm_known``                gauge    1 while the CPM answers
``device_agent_cpm_judges_releases``      gauge    1 if the CPM verifies releases itself
``device_agent_release_sequence``         gauge    sequence of the last release that the CPM applied
``device_agent_refused_keys``             gauge    class keys that the CPM did not take
``device_agent_certificate_end_seconds``  gauge    Unix time of the certificate's end; 0 without one
``device_agent_last_report_seconds``      gauge    Unix time of the last report that the hub took, or 0
``device_agent_last_release_seconds``     gauge    Unix time of the last release that was applied, or 0
``device_agent_start_seconds``            gauge    Unix time of the agent's start
``device_agent_events_total``             counter  what happened since then, by label ``event``
========================================  =======  ======================================================

Labels of ``device_agent_events_total`` are the names in :data:`~device_agent.health.COUNTS`. Nothing names
a device, a key or a package. The endpoint has no authentication: whoever reaches it reads it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from device_agent.health import HealthState
from shared.errors import TransportError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from prometheus_client.metrics_core import Metric

    from device_agent.health import Health
    from device_agent.settings import Metrics

_GAUGES: tuple[tuple[str, str, Callable[[Health], float]], ...] = (
    ("hub_connected", "1 while the connection to the hub stands", lambda health: health.hub_connected),
    ("cpm_known", "1 while the CPM answers", lambda health: health.cpm_known),
    ("cpm_judges_releases", "1 if the CPM verifies releases itself", lambda health: health.cpm_judges),
    ("release_sequence", "sequence of the last release that the CPM applied", lambda health: health.sequence),
    ("refused_keys", "class keys that the CPM did not take", lambda health: health.errors),
    (
        "certificate_end_seconds",
        "Unix time of the certificate's end; 0 without one",
        lambda health: health.certificate_not_after or 0,
    ),
    (
        "last_report_seconds",
        "Unix time of the last report that the hub took; 0: none",
        lambda health: health.last_report or 0,
    ),
    (
        "last_release_seconds",
        "Unix time of the last release that was applied; 0: none",
        lambda health: health.last_release or 0,
    ),
    ("start_seconds", "Unix time of the agent's start", lambda health: health.started),
)


class MetricsEndpoint(Collector):
    """Serves the last health that it was shown.

    Args:
        where: The address and port; port 0 takes a free one.

    Raises:
        TransportError: It cannot listen there.
    """

    def __init__(self, where: Metrics) -> None:
        self._health: Health | None = None
        registry = CollectorRegistry()
        registry.register(self)
        try:
            self._server, self._thread = start_http_server(where.port, addr=where.address, registry=registry)
        except OSError as error:
            raise TransportError(
                f"metrics: cannot listen on {where.address} port {where.port}: {error.strerror}"
            ) from error

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._server.server_address[1])

    def show(self, health: Health) -> None:
        """Answer with this from now on."""
        self._health = health

    def collect(self) -> Iterator[Metric]:
        """Return every metric; called by the registry, in a thread of the server."""
        health = self._health
        if health is None:
            return
        states = GaugeMetricFamily("device_agent_state", "1 for the state that it is in", labels=["state"])
        for possible in HealthState:
            states.add_metric([possible.value], float(health.state is possible))
        yield states
        for name, help_text, value in _GAUGES:
            yield GaugeMetricFamily(f"device_agent_{name}", help_text, value=float(value(health)))
        events = CounterMetricFamily("device_agent_events", "what happened since the start", labels=["event"])
        for event, count in health.counts.items():
            events.add_metric([event], count)
        yield events

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

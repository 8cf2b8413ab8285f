"""OpenTelemetry's SDK behind :class:`functions.telemetry.Telemetry`: OTLP over HTTP, or Azure Monitor.

Providers are this adapter's own, not the process's global ones: nothing but what the catalogue lists is ever
exported. Sampling, endpoints, headers, intervals and the service's name are the SDK's own settings.
"""

from __future__ import annotations

import os
import re
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from opentelemetry import context, trace
from opentelemetry.metrics import CallbackOptions, Counter, Histogram, Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import PeriodicExportingMetricReader
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.trace import Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from functions.telemetry import METRICS, Kind, Metric
from shared.errors import EdbError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from opentelemetry.sdk.metrics.export import MetricReader
    from opentelemetry.sdk.trace import SpanProcessor

    from functions.telemetry import Span

SERVICE = "edb-key-service"
"""The service's name, where ``OTEL_SERVICE_NAME`` says no other."""

_SCOPE = "edb.functions"
_TRACE_ID = re.compile(r"(?!0{32})[0-9a-f]{32}")
_wanted_trace_id: ContextVar[int | None] = ContextVar("wanted_trace_id", default=None)


class _CorrelationIds(RandomIdGenerator):
    """Gives a trace the id that its correlation has, if it has one that will do."""

    def generate_trace_id(self) -> int:
        return _wanted_trace_id.get() or super().generate_trace_id()


class _Told:
    """A :class:`functions.telemetry.Span` over the SDK's."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span

    def tell(self, name: str, value: str | int) -> None:
        self._span.set_attribute(name, value)


class OpenTelemetry:
    """Sends traces and metrics through these readers and processors.

    Args:
        readers: Collect metrics and export them.
        processors: Take spans and export them.
    """

    def __init__(self, *, readers: Sequence[MetricReader], processors: Iterable[SpanProcessor]) -> None:
        resource = Resource.create(
            {
                SERVICE_NAME: os.environ.get("OTEL_SERVICE_NAME") or SERVICE,
                SERVICE_INSTANCE_ID: os.environ.get("WEBSITE_INSTANCE_ID") or f"process-{os.getpid()}",
            }
        )
        self._meters = MeterProvider(metric_readers=readers, resource=resource)
        self._tracers = TracerProvider(resource=resource, id_generator=_CorrelationIds())
        for processor in processors:
            self._tracers.add_span_processor(processor)
        self._tracer = self._tracers.get_tracer(_SCOPE)
        self._reads: dict[str, Callable[[], float | None]] = {}
        self._counters: dict[str, Counter] = {}
        self._histograms: dict[str, Histogram] = {}
        meter = self._meters.get_meter(_SCOPE)
        for metric in METRICS:
            name, unit, what = metric.name, metric.unit, metric.what
            match metric.kind:
                case Kind.COUNTER:
                    self._counters[name] = meter.create_counter(name, unit, what)
                case Kind.HISTOGRAM:
                    self._histograms[name] = meter.create_histogram(name, unit, what)
                case Kind.GAUGE:
                    meter.create_observable_gauge(name, [self._reading(name)], unit, what)

    @classmethod
    def exporting(cls, *, otlp: bool, connection_string: str | None, client_id: str | None) -> OpenTelemetry:
        """Return one that exports.

        Args:
            otlp: By OTLP over HTTP; where to, OpenTelemetry's own settings say.
            connection_string: Of Application Insights, or None.
            client_id: Of a user-assigned identity that may publish there; None for the system's.
        """
        readers: list[MetricReader] = []
        processors: list[SpanProcessor] = []
        if otlp:
            from opentelemetry.exporter.otlp.proto.http.metric_exporter import (  # noqa: PLC0415 - only if wanted
                OTLPMetricExporter,
            )
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - as above
                OTLPSpanExporter,
            )

            readers.append(PeriodicExportingMetricReader(OTLPMetricExporter()))
            processors.append(BatchSpanProcessor(OTLPSpanExporter()))
        if connection_string is not None:
            from azure.identity import ManagedIdentityCredential  # noqa: PLC0415 - as above
            from azure.monitor.opentelemetry.exporter import (  # noqa: PLC0415 - as above
                AzureMonitorMetricExporter,
                AzureMonitorTraceExporter,
            )

            options = {
                "connection_string": connection_string,
                "credential": ManagedIdentityCredential(client_id=client_id),
            }
            readers.append(PeriodicExportingMetricReader(AzureMonitorMetricExporter(**options)))
            processors.append(BatchSpanProcessor(AzureMonitorTraceExporter(**options)))
        return cls(readers=readers, processors=processors)

    def record(self, metric: Metric, value: float, attributes: Mapping[str, str]) -> None:
        """Count, or take a value into a histogram; see the port."""
        if metric.kind is Kind.COUNTER:
            self._counters[metric.name].add(value, attributes)
        else:
            self._histograms[metric.name].record(value, attributes)

    def observe(self, metric: Metric, read: Callable[[], float | None]) -> None:
        """Read a gauge whenever metrics are collected; see the port."""
        self._reads[metric.name] = read

    @contextmanager
    def span(
        self, name: str, *, correlation_id: str, parent: str, attributes: Mapping[str, str]
    ) -> Iterator[Span]:
        """Open a span; see the port."""
        above = TraceContextTextMapPropagator().extract({"traceparent": parent}) if parent else None
        wanted = int(correlation_id, 16) if _TRACE_ID.fullmatch(correlation_id) else None
        token = _wanted_trace_id.set(wanted)
        try:
            opened = self._tracer.start_span(name, context=above, attributes=dict(attributes))
        finally:
            _wanted_trace_id.reset(token)
        attached = context.attach(trace.set_span_in_context(opened))
        try:
            yield _Told(opened)
        except BaseException as error:
            code = error.code if isinstance(error, EdbError) else type(error).__name__
            opened.set_status(Status(StatusCode.ERROR, code))  # messages stay in the log
            raise
        finally:
            context.detach(attached)
            opened.end()

    def close(self) -> None:
        """Send what was not sent."""
        self._tracers.shutdown()
        self._meters.shutdown()

    def flush(self) -> None:
        """Send what was not sent, and go on."""
        self._tracers.force_flush()
        self._meters.force_flush()

    def _reading(self, name: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
        def read(_: CallbackOptions) -> Iterable[Observation]:
            value = self._reads[name]() if name in self._reads else None
            return [] if value is None else [Observation(value)]

        return read

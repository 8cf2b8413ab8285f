"""Traces and metrics: what is told of the app's work, and to whom.

As a logger does, this belongs to the process: code counts and opens spans where things happen, and the
composition root says once where they go. Without that nothing is kept and nothing is imported. What is told
stands in :data:`METRICS`, and in ``docs/guides/observability.md``; attributes hold codes and names, never
what came in a request.

Example:
    >>> with span("device", correlation_id=correlation_id, device_id=device_id) as told:
    ...     add(DEVICES, outcome="written")
    ...     told.tell("outcome", "written")
"""

from __future__ import annotations

import enum
import time
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, Self
from urllib.parse import urlsplit

from shared.errors import EdbError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

OTLP_ENDPOINTS: Final = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
)
"""Each of these sends traces and metrics by OTLP over HTTP, as OpenTelemetry's own settings say."""

AZURE_MONITOR: Final = "APPLICATIONINSIGHTS_CONNECTION_STRING"
"""Sends traces and metrics to Azure Monitor."""


class Kind(enum.Enum):
    """How a metric is made up."""

    COUNTER = "counter"
    HISTOGRAM = "histogram"
    GAUGE = "gauge"


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric.

    Args:
        name: As it is exported.
        kind: How it is made up.
        unit: UCUM.
        what: One line of help.
        attributes: Every attribute that it may bear.
    """

    name: str
    kind: Kind
    unit: str
    what: str
    attributes: tuple[str, ...] = ()


REQUESTS = Metric(
    name="edb.requests",
    kind=Kind.COUNTER,
    unit="{request}",
    what="requests answered, by contract and status",
    attributes=("contract", "status"),
)
REQUEST_DURATION = Metric(
    name="edb.request.duration",
    kind=Kind.HISTOGRAM,
    unit="s",
    what="how long answering took",
    attributes=("contract",),
)
DENIALS = Metric(
    name="edb.denials",
    kind=Kind.COUNTER,
    unit="{decision}",
    what="decisions that said no, by what was asked for and why",
    attributes=("event", "reason"),
)
WRAPS = Metric(
    name="edb.wraps",
    kind=Kind.COUNTER,
    unit="{key}",
    what="class keys wrapped for somebody, by algorithm",
    attributes=("event", "algorithm"),
)
PASS_DURATION = Metric(
    name="edb.pass.duration",
    kind=Kind.HISTOGRAM,
    unit="s",
    what="how long reconciling one page of devices took",
)
DEVICES = Metric(
    name="edb.devices",
    kind=Kind.COUNTER,
    unit="{device}",
    what="devices: settled, unchanged, written, denied, over_budget, told, gone, failed, postponed "
    "or set_aside",
    attributes=("outcome",),
)
KEY_CACHE = Metric(
    name="edb.key_cache",
    kind=Kind.COUNTER,
    unit="{lookup}",
    what="opened class keys asked for: hit, or miss and opened by the vault",
    attributes=("result",),
)
CALL_DURATION = Metric(
    name="edb.call.duration",
    kind=Kind.HISTOGRAM,
    unit="s",
    what="how long a call of the vault or the hub took, waits and retries included",
    attributes=("peer", "outcome"),
)
RATE_WAIT = Metric(
    name="edb.rate.wait",
    kind=Kind.HISTOGRAM,
    unit="s",
    what="how long calls waited for their turn within this instance's rate; only those that did",
    attributes=("peer", "call"),
)
THROTTLED = Metric(
    name="edb.throttled",
    kind=Kind.COUNTER,
    unit="{answer}",
    what="answers of the vault or the hub that it had enough of such calls (429)",
    attributes=("peer", "call"),
)
POLICY_SERIAL = Metric(
    name="edb.policy.serial", kind=Kind.GAUGE, unit="{serial}", what="serial of the policy in force"
)
POLICY_AGE = Metric(
    name="edb.policy.age", kind=Kind.GAUGE, unit="s", what="since the source last confirmed the policy"
)
POLICY_FAULTS = Metric(
    name="edb.policy.faults",
    kind=Kind.COUNTER,
    unit="{look}",
    what="looks at the source that found no policy to put in force, by code",
    attributes=("code",),
)
AUDIT_RECORDS = Metric(
    name="edb.audit.records",
    kind=Kind.COUNTER,
    unit="{record}",
    what="audit records written to the chain",
    attributes=("event", "outcome"),
)
AUDIT_FAILURES = Metric(
    name="edb.audit.failures",
    kind=Kind.COUNTER,
    unit="{record}",
    what="audit records that the chain did not take",
    attributes=("event",),
)

METRICS: Final = (
    REQUESTS,
    REQUEST_DURATION,
    DENIALS,
    WRAPS,
    PASS_DURATION,
    DEVICES,
    KEY_CACHE,
    CALL_DURATION,
    RATE_WAIT,
    THROTTLED,
    POLICY_SERIAL,
    POLICY_AGE,
    POLICY_FAULTS,
    AUDIT_RECORDS,
    AUDIT_FAILURES,
)
"""Every metric there is."""

_CONTRACTS = {
    name.lower(): name
    for name in (
        "ProvisionKey",
        "ImportKey",
        "RotateKey",
        "RevokeKey",
        "ChangeRollout",
        "RewrapEnvelopes",
        "DeleteKey",
        "RecoverKey",
        "WrapKey",
        "keys",
        "devices",
        "RebindDevice",
        "ReconcileDevices",
        "policy",
        "audit",
        "health",
        "ready",
        "openapi.json",
    )
}


class Span(Protocol):
    """A piece of work that is being done."""

    def tell(self, name: str, value: str | int) -> None:
        """Say something more of it; never what came in a request, never key material."""
        ...


class Telemetry(Protocol):
    """Where traces and metrics go."""

    def record(self, metric: Metric, value: float, attributes: Mapping[str, str]) -> None:
        """Count, or take a value into a histogram."""
        ...

    def observe(self, metric: Metric, read: Callable[[], float | None]) -> None:
        """Read a gauge whenever metrics are collected; one read for each metric, None says nothing."""
        ...

    def span(
        self, name: str, *, correlation_id: str, parent: str, attributes: Mapping[str, str]
    ) -> AbstractContextManager[Span]:
        """Open a span; see :func:`span`."""
        ...

    def close(self) -> None:
        """Send what was not sent."""
        ...


class _Untold:
    """A span that nobody hears of."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        """Say nothing of that either."""

    def tell(self, name: str, value: str | int) -> None:
        """Say nothing."""


class _Off:
    """Keeps nothing."""

    def record(self, metric: Metric, value: float, attributes: Mapping[str, str]) -> None:
        """Count nothing."""

    def observe(self, metric: Metric, read: Callable[[], float | None]) -> None:
        """Read nothing."""

    def span(
        self,
        name: str,  # noqa: ARG002 - the port's
        *,
        correlation_id: str,  # noqa: ARG002 - as above
        parent: str,  # noqa: ARG002 - as above
        attributes: Mapping[str, str],  # noqa: ARG002 - as above
    ) -> _Untold:
        """Open nothing."""
        return _Untold()

    def close(self) -> None:
        """Send nothing."""


_current: Telemetry = _Off()


def configure(environment: Mapping[str, str]) -> None:
    """Say where traces and metrics go: OTLP, Azure Monitor, both, or nowhere.

    Args:
        environment: Holds OpenTelemetry's own settings, and the connection string of Application Insights.
    """
    told = {name for name in (*OTLP_ENDPOINTS, AZURE_MONITOR) if environment.get(name)}
    if not told or environment.get("OTEL_SDK_DISABLED", "").lower() == "true":
        use(_Off())
        return
    from functions.adapters.open_telemetry import OpenTelemetry  # noqa: PLC0415 - a second that most starts save

    use(
        OpenTelemetry.exporting(
            otlp=not told.isdisjoint(OTLP_ENDPOINTS),
            connection_string=environment.get(AZURE_MONITOR) or None,
            client_id=environment.get("AZURE_CLIENT_ID") or None,
        )
    )


def use(telemetry: Telemetry | None) -> None:
    """Send everything here from now on, and close what was used before; None means nowhere."""
    global _current
    before, _current = _current, telemetry if telemetry is not None else _Off()
    before.close()


def add(metric: Metric, amount: int = 1, **attributes: str) -> None:
    """Count."""
    _current.record(metric, amount, attributes)


def take(metric: Metric, value: float, **attributes: str) -> None:
    """Take a value into a histogram."""
    _current.record(metric, value, attributes)


def observe(metric: Metric, read: Callable[[], float | None]) -> None:
    """Read a gauge whenever metrics are collected."""
    _current.observe(metric, read)


def span(
    name: str, *, correlation_id: str = "", parent: str = "", **attributes: str
) -> AbstractContextManager[Span]:
    """Open a span for a piece of work; what it raises is told by its code alone.

    Args:
        name: A fixed name.
        correlation_id: Becomes the trace's id where the span has no parent and the id is 32 hex digits, so
            that one id finds trace, log and audit.
        parent: A ``traceparent`` (W3C Trace Context) that it belongs under, or empty.
        attributes: What is known of it.
    """
    if correlation_id:
        attributes["correlation_id"] = correlation_id
    return _current.span(name, correlation_id=correlation_id, parent=parent, attributes=attributes)


@contextmanager
def call(peer: str, what: str) -> Iterator[None]:
    """Tell of a call to the vault or the hub.

    Args:
        peer: ``vault`` or ``hub``.
        what: What is being done, in the words of its errors.
    """
    began, outcome = time.monotonic(), "ok"
    try:
        with span(peer, what=what):
            yield
    except EdbError as error:
        outcome = error.code
        raise
    except Exception:
        outcome = "error"
        raise
    finally:
        take(CALL_DURATION, time.monotonic() - began, peer=peer, outcome=outcome)


@contextmanager
def request(url: str, *, correlation_id: str, parent: str) -> Iterator[Callable[[int], None]]:
    """Tell of a request; gives what notes the status that it is answered with.

    Args:
        url: Only its contract is told of it: routes hold names, and queries hold keys.
        correlation_id: The request's.
        parent: Its ``traceparent``, or empty.
    """
    contract, began = contract_of(url), time.monotonic()
    with span(f"request {contract}", correlation_id=correlation_id, parent=parent) as told:

        def answered(status: int) -> None:
            told.tell("status", status)
            add(REQUESTS, contract=contract, status=str(status))

        yield answered
    take(REQUEST_DURATION, time.monotonic() - began, contract=contract)


def contract_of(url: str) -> str:
    """Return the contract that a URL asks for, of a fixed list; ``other`` for all else.

    Example:
        >>> contract_of("https://app.test/api/ProvisionKey/my_app?code=…")
        'ProvisionKey'
    """
    segments = urlsplit(url).path.lower().strip("/").split("/")
    name = segments[1] if len(segments) > 1 else segments[0]
    return _CONTRACTS.get(name, "other")

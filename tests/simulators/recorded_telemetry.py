"""Telemetry that is kept, to be counted."""

from __future__ import annotations

import threading
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

from functions import telemetry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


class _Span:
    def tell(self, name: str, value: str | int) -> None:
        pass


class RecordedTelemetry:
    """Everything that is counted while it is open, by metric and attributes."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted: Counter[tuple[str, frozenset[tuple[str, str]]]] = Counter()

    def __enter__(self) -> Self:
        telemetry.use(self)
        return self

    def __exit__(self, *_: object) -> None:
        telemetry.use(None)

    def count(self, metric: telemetry.Metric, **attributes: str) -> int:
        """Return how often a metric was recorded with at least these attributes."""
        wanted = attributes.items()
        return sum(
            times
            for (name, told), times in self._counted.items()
            if name == metric.name and wanted <= dict(told).items()
        )

    def record(self, metric: telemetry.Metric, value: float, attributes: Mapping[str, str]) -> None:
        with self._lock:
            self._counted[metric.name, frozenset(attributes.items())] += 1

    def observe(self, metric: telemetry.Metric, read: Callable[[], float | None]) -> None:
        pass

    @contextmanager
    def span(
        self, name: str, *, correlation_id: str, parent: str, attributes: Mapping[str, str]
    ) -> Iterator[_Span]:
        yield _Span()

    def close(self) -> None:
        pass

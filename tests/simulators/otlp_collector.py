"""An OTLP collector over HTTP: keeps what metrics and spans arrive."""

from __future__ import annotations

import gzip
import http.server
import threading
from typing import Self

from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class OtlpCollector:
    """The collector; use it as a context.

    Attributes:
        bodies: Everything that arrived, as it is after decompression.
        metrics: Every ``Metric`` message that arrived.
        spans: Every ``Span`` message that arrived.
        resources: Attributes of the resources that sent them.
    """

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.metrics = []
        self.spans = []
        self.resources: list[dict[str, object]] = []
        collector = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                collector.take(self.path, body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._came = threading.Condition()
        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def wait_for(self, *, metric: str, span: str, seconds: float = 60) -> None:
        """Wait until both have arrived."""
        with self._came:
            assert self._came.wait_for(
                lambda: (
                    metric in {each.name for each in self.metrics}
                    and span in {each.name for each in self.spans}
                ),
                seconds,
            )

    def take(self, path: str, body: bytes) -> None:
        with self._came:
            self._take(path, body)
            self._came.notify_all()

    def _take(self, path: str, body: bytes) -> None:
        self.bodies.append(body)
        if path == "/v1/metrics":
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics:
                self.resources.append(attributes_of(resource.resource))
                for scope in resource.scope_metrics:
                    self.metrics.extend(scope.metrics)
        elif path == "/v1/traces":
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                self.resources.append(attributes_of(resource.resource))
                for scope in resource.scope_spans:
                    self.spans.extend(scope.spans)
        else:
            raise AssertionError(f"nothing is sent to {path}")

    def points(self, name: str):
        """Return the data points of a metric, the newest export last."""
        found = []
        for metric in self.metrics:
            if metric.name == name:
                found.extend(getattr(metric, metric.WhichOneof("data")).data_points)
        return found


def attributes_of(message) -> dict[str, object]:
    """Return the attributes of a span, data point or resource."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in message.attributes}

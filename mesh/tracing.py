"""Traces: OpenTelemetry's SDK, set up in one place, and W3C trace context in gRPC metadata and HTTP headers.

Without an endpoint or a file nothing is recorded and a span costs next to nothing; the trace context still travels.
"""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

_propagator = TraceContextTextMapPropagator()
# W3C Trace Context: without this header a caller has no trace.
PARENT_HEADER = "traceparent"
EXPORT_DELAY_MS = 500
MAX_QUEUED_SPANS = 8192
MAX_TRACE_FILE_BYTES = 256 << 20


def configure(service: str, otlp_endpoint: str | None, trace_file: Path | None) -> Callable[[], None]:
    """Record spans of this process and export them; returns what flushes and stops the export."""
    if otlp_endpoint is None and trace_file is None:
        return lambda: None
    provider = TracerProvider(resource=Resource.create({"service.name": f"meshserve-{service}"}))
    exporters: list[SpanExporter] = []
    if otlp_endpoint is not None:
        exporters.append(OTLPSpanExporter(endpoint=otlp_endpoint, insecure=otlp_endpoint.startswith("http://")))
    if trace_file is not None:
        exporters.append(FileSpanExporter(trace_file))
    for exporter in exporters:
        provider.add_span_processor(
            BatchSpanProcessor(exporter, max_queue_size=MAX_QUEUED_SPANS, schedule_delay_millis=EXPORT_DELAY_MS)
        )
    trace.set_tracer_provider(provider)
    return provider.shutdown


def tracer(name: str) -> trace.Tracer:
    """The tracer of a module."""
    return trace.get_tracer(name)


def is_recording() -> bool:
    """True when this process records spans; else all that a trace needs is to be passed on."""
    return not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def extract(carrier: Mapping[str, str]) -> Context:
    """The trace context that a caller sent in metadata or headers (lower-case names)."""
    return _propagator.extract(carrier)


def inject() -> dict[str, str]:
    """The current trace context as metadata or headers; empty when there is none."""
    carrier: dict[str, str] = {}
    _propagator.inject(carrier)
    return carrier


class FileSpanExporter(SpanExporter):
    """Appends finished spans to a file, one JSON object a line; several processes may share the file.

    Above `max_bytes` the file is put aside as `<name>.1`, in the place of the one before it.
    """

    def __init__(self, path: Path, max_bytes: int = MAX_TRACE_FILE_BYTES) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._max_bytes = max_bytes
        self._file = self._open()
        self._lock = threading.Lock()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        lines = b"".join(json.dumps(_span_record(span)).encode() + b"\n" for span in spans)
        try:
            with self._lock:
                self._rotate()
                self._file.write(lines)
        except (OSError, ValueError):  # disk full, or closed while shutting down
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS

    def shutdown(self) -> None:
        with self._lock:
            self._file.close()

    def _open(self) -> io.FileIO:
        # Each batch goes out in one write to a file opened for appending, so that lines of processes do not mix.
        return io.FileIO(self._path, "ab")

    def _rotate(self) -> None:
        """Put a full file aside, or follow the process that did so already."""
        own = os.fstat(self._file.fileno())
        try:
            is_own = self._path.stat().st_ino == own.st_ino
        except FileNotFoundError:
            is_own = False
        if is_own and own.st_size <= self._max_bytes:
            return
        if is_own:
            self._path.replace(self._path.with_name(f"{self._path.name}.1"))
        self._file.close()
        self._file = self._open()


def _span_record(span: ReadableSpan) -> dict[str, object]:
    own = span.context
    return {
        "trace_id": f"{own.trace_id:032x}",
        "span_id": f"{own.span_id:016x}",
        "parent_span_id": f"{span.parent.span_id:016x}" if span.parent else None,
        "name": span.name,
        "kind": span.kind.name.lower(),
        "service": span.resource.attributes.get("service.name"),
        "start_unix_ns": span.start_time,
        "end_unix_ns": span.end_time,
        "status": span.status.status_code.name,
        "attributes": dict(span.attributes or {}),
    }

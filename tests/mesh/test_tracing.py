"""Traces: W3C context travels without an exporter, and spans reach a file and an OTLP receiver."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext

from mesh import tracing

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

# In a process of its own: a tracer provider is set once in a process's life.
PROGRAM = f"""
import sys
from pathlib import Path
from mesh import tracing
endpoint, file = (value or None for value in sys.argv[1:3])
flush = tracing.configure("test", endpoint, Path(file) if file else None)
with tracing.tracer("t").start_as_current_span("outer", tracing.extract({{"traceparent": "{PARENT}"}})):
    with tracing.tracer("t").start_as_current_span("inner", attributes={{"n": 1}}):
        print(tracing.inject()["traceparent"])
flush()
"""


def run_program(endpoint: str = "", file: Path | str = "") -> str:
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, endpoint, str(file)],
        check=True, capture_output=True, text=True, timeout=60, env={**os.environ, "PYTHONPATH": str(root)},
    )  # fmt: skip
    return done.stdout.strip()


def test_context_travels_even_when_nothing_is_recorded() -> None:
    assert run_program() == PARENT


def test_spans_are_appended_to_the_file_as_json_lines(tmp_path: Path) -> None:
    file = tmp_path / "spans" / "trace.jsonl"

    sent = run_program(file=file)

    inner, outer = (json.loads(line) for line in file.read_text().splitlines())
    assert (inner["name"], outer["name"]) == ("inner", "outer")
    assert outer["trace_id"] == inner["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert (outer["parent_span_id"], inner["parent_span_id"]) == ("b7ad6b7169203331", outer["span_id"])
    assert inner["attributes"] == {"n": 1}
    assert inner["span_id"] in sent


class Receiver(trace_service_pb2_grpc.TraceServiceServicer):
    def __init__(self) -> None:
        self.names: list[str] = []

    def Export(self, request: Any, context: Any) -> Any:
        self.names += [
            span.name for batch in request.resource_spans for scope in batch.scope_spans for span in scope.spans
        ]
        return trace_service_pb2.ExportTraceServiceResponse()


def test_spans_reach_an_otlp_receiver() -> None:
    receiver = Receiver()
    server = grpc.server(futures.ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(receiver, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()

    run_program(endpoint=f"http://127.0.0.1:{port}")
    server.stop(None)

    assert receiver.names == ["inner", "outer"]


def test_no_context_gives_no_header() -> None:
    assert tracing.inject() == {}


def span(name: str) -> ReadableSpan:
    return ReadableSpan(name, context=SpanContext(1, 2, is_remote=False), start_time=1, end_time=2)


def test_full_file_is_put_aside_and_other_processes_follow(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    first, second = (tracing.FileSpanExporter(path, max_bytes=10) for _ in range(2))

    for exporter, name in ((first, "a"), (first, "b"), (second, "c"), (second, "d")):
        exporter.export([span(name)])

    # "b" put the full file with "a" aside; "c" followed to the new file; "d" put that one aside.
    assert [json.loads(line)["name"] for line in (tmp_path / "trace.jsonl.1").read_text().splitlines()] == ["b", "c"]
    assert [json.loads(line)["name"] for line in path.read_text().splitlines()] == ["d"]
    first.shutdown()
    second.shutdown()

"""One request on its way through the gateway: what was asked, of whom, and what came of it.

The fronts begin and finish an exchange, the data plane writes into it, and the recorder turns the finished one into
metrics and a line of the prediction log. It knows neither HTTP nor gRPC.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType
from typing import TypeVar

from google.protobuf.message import Message
from opentelemetry import trace

from gateway.generation import Generation
from gateway.traffic import Route
from mesh import context
from mesh.errors import ClientCancelled, MeshError
from mesh.oip import open_inference_pb2 as oip
from mesh.v1 import explain_pb2
from mesh.v1 import language_model_pb2 as lm

P = TypeVar("P")

SERVED_BY_HEADER = "x-meshserve-served-by"
ARM_HEADER = "x-meshserve-arm"

# A stream of infer requests can go on for ever; its record does not.
MAX_CALLS = 4096


@dataclass(frozen=True, slots=True)
class TensorCall:
    """An infer call. Bytes are what only passed through; None: it never came, or it is too large to keep."""

    request: oip.ModelInferRequest | bytes | None
    response: oip.ModelInferResponse | bytes | None


@dataclass(frozen=True, slots=True)
class ExplainCall:
    """The answer to an explain call, as in TensorCall."""

    response: explain_pb2.ExplainResponse | bytes | None


@dataclass(slots=True)
class Exchange:
    """A request and what is known of it so far.

    protocol: "grpc", "v1", "v2" or "openai". route: the route's template, or the gRPC method. deployment: None until
    one is found in the mesh. is_prediction: it asks a model for something, and so it is logged. code: canonical.
    status: the HTTP status or the name of the gRPC code, once finished. routes: what was decided, by the name and
    version that were asked for. taken: the newest route for `deployment`; None where there was nothing to decide.
    """

    protocol: str
    route: str
    request_id: str
    started_at: float
    started: float
    clock: Callable[[], float]
    max_payload_bytes: int
    trace_id: str | None = None
    is_prediction: bool = False
    deployment: str | None = None
    generations: list[Generation] = field(default_factory=list)
    tensor_calls: list[TensorCall] = field(default_factory=list)
    num_tensor_calls: int = 0
    explain_calls: list[ExplainCall] = field(default_factory=list)
    routes: dict[tuple[str, str], Route] = field(default_factory=dict)
    taken: Route | None = None
    code: str = "OK"
    error: str | None = None
    status: str = ""
    total_s: float = 0.0
    _kept_bytes: int = 0

    def begin_generation(self, request: lm.GenerateRequest | bytes) -> Generation:
        """A record for one Generate call; a request can cause several."""
        kept = self._kept(request)
        generation = Generation(kept or b"", self.started, self.clock, self.max_payload_bytes)
        generation.truncated = kept is None
        self.generations.append(generation)
        return generation

    def add_infer(
        self, request: oip.ModelInferRequest | bytes | None, response: oip.ModelInferResponse | bytes | None
    ) -> None:
        """Note an infer call; of those of one endless stream, the first ones."""
        self.num_tensor_calls += 1
        if len(self.tensor_calls) < MAX_CALLS:
            self.tensor_calls.append(TensorCall(self._kept(request), self._kept(response)))

    def add_explain(self, response: explain_pb2.ExplainResponse | bytes | None) -> None:
        """Note an explain call; None when it failed."""
        if len(self.explain_calls) < MAX_CALLS:
            self.explain_calls.append(ExplainCall(self._kept(response)))

    def note_route(self, route: Route) -> None:
        """Note where a call goes; of a stream that names several models, for the one that is noted as `deployment`."""
        if self.deployment in (None, route.asked_name):
            self.taken = route

    def fail(self, error: BaseException) -> None:
        """Note what went wrong; the first error counts."""
        if self.error is not None:
            return
        known = error if isinstance(error, MeshError) else None
        if known is None and not isinstance(error, Exception):
            known = ClientCancelled("the client went away")  # CancelledError
        self.code = known.code.name if known else "INTERNAL"
        self.error = known.message if known else "internal error"

    @property
    def payload_bytes(self) -> int:
        """About how much memory the exchange holds on to."""
        generated = sum(one.size_bytes for one in self.generations)
        return 1024 + self._kept_bytes + generated

    def _kept(self, payload: P) -> P | None:
        size_bytes = 0
        if isinstance(payload, bytes):
            size_bytes = len(payload)
        elif isinstance(payload, Message):
            size_bytes = payload.ByteSize()
        if self._kept_bytes + size_bytes > self.max_payload_bytes:
            return None
        self._kept_bytes += size_bytes
        return payload

    @property
    def first_token_s(self) -> float | None:
        """Seconds from the request's arrival to the first token of any of its generations."""
        if not self.generations:
            return None
        times = [one.first_token_s for one in self.generations if one.first_token_s is not None]
        return min(times, default=None)


def taken_headers(exchange: Exchange) -> tuple[tuple[str, str], ...]:
    """What tells a client where its request went, when there was something to decide."""
    taken = exchange.taken
    return () if taken is None else ((SERVED_BY_HEADER, taken.served_by), (ARM_HEADER, str(taken.arm)))


class Recorder:
    """Begins and finishes exchanges; finished ones go to `sinks` (metrics, prediction log), which must be quick."""

    def __init__(
        self,
        sinks: list[Callable[[Exchange], None]],
        *,
        max_payload_bytes: int,
        clock: Callable[[], float] = time.perf_counter,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self.in_flight = 0
        self._sinks = sinks
        self._max_payload_bytes = max_payload_bytes
        self._clock = clock
        self._wall_clock = wall_clock

    def exchange(self, protocol: str, route: str) -> Recording:
        """An exchange for the current request context; finished when the block ends."""
        request = context.current()
        return Recording(
            self,
            Exchange(
                protocol=protocol,
                route=route,
                request_id=request.request_id if request else context.new_request_id(),
                started_at=self._wall_clock(),
                started=self._clock(),
                clock=self._clock,
                max_payload_bytes=self._max_payload_bytes,
            ),
        )

    def finish(self, exchange: Exchange) -> None:
        exchange.total_s = self._clock() - exchange.started
        exchange.status = exchange.status or exchange.code
        span = trace.get_current_span().get_span_context()
        if exchange.trace_id is None and span.is_valid:
            exchange.trace_id = f"{span.trace_id:032x}"
        for sink in self._sinks:
            sink(exchange)


class Recording:
    """`with recorder.exchange(…) as exchange:`. A class: a generator would cost every request more."""

    __slots__ = ("_exchange", "_recorder")

    def __init__(self, recorder: Recorder, exchange: Exchange) -> None:
        self._recorder = recorder
        self._exchange = exchange

    def __enter__(self) -> Exchange:
        self._recorder.in_flight += 1
        return self._exchange

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._exchange.fail(error)
        self._recorder.in_flight -= 1
        self._recorder.finish(self._exchange)

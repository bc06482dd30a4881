"""Asks another version what was already answered, compares the answers, and records what it found; nobody waits for it.

A copy is made when its answer has gone out, and waits in a queue that is bounded in number and bytes; what does not fit
is dropped and counted. A few workers ask, over channels and with a retry budget of their own, so that a version that
fails or hangs takes nothing from the requests of clients. Where requests queue on the way, copies come last, and
generations run with a priority below theirs, and with the seed of the first answer, so that two equal models say the
same.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import grpc.aio
import orjson
from prometheus_client import CollectorRegistry, Counter

from gateway import wire
from gateway.comparison import Comparison, compare_tensors, compare_texts
from gateway.prediction_log import RotatingFile
from gateway.traffic import Route
from mesh import context
from mesh.errors import DeadlineExceeded, MeshError, MessageTooLarge
from mesh.generation_stream import GENERATE, Answer
from mesh.logs import get_logger
from mesh.pool import EndpointPool
from mesh.v1 import language_model_pb2 as lm
from mesh.view import MeshView

log = get_logger(__name__)

MODEL_INFER = "/inference.GRPCInferenceService/ModelInfer"
# Below every request of a user: copies run when nothing else waits.
PRIORITY = -10

_MODEL_VERSION = 2  # field of all requests about a model


@dataclass(slots=True)
class Copy:
    """A request, as it came, and the answer that its client got: all messages of it."""

    route: Route
    method: str
    request: bytes
    answers: list[bytes]
    request_id: str = field(default_factory=lambda: _request_id())

    @property
    def size_bytes(self) -> int:
        return len(self.request) + sum(len(answer) for answer in self.answers)


class Mirror:
    """Use from one event loop only, between start() and close()."""

    def __init__(
        self,
        view: Callable[[], MeshView],
        registry: CollectorRegistry,
        *,
        balancing: str,
        file: RotatingFile | None,
        max_queued: int,
        max_queued_bytes: int,
        concurrency: int,
        timeout_s: float,
    ) -> None:
        """file: where what was found is written; None: only the metric tells. timeout_s: for one copy's answer."""
        self._pool = EndpointPool(view, policy=balancing)
        self._file = file
        self._writing = threading.Lock()
        self._queue: asyncio.Queue[Copy] = asyncio.Queue(max_queued)
        self._queued_bytes = 0
        self._max_queued_bytes = max_queued_bytes
        self._concurrency = concurrency
        self._timeout_s = timeout_s
        self._workers: list[asyncio.Task[None]] = []
        self._copies = Counter(
            "meshserve_mirrored_requests",
            "Requests copied to another version, by what came of it: equal, different, failed, dropped.",
            ["deployment", "outcome"],
            registry=registry,
        )

    def start(self) -> None:
        """Begin to work on what is offered."""
        self._workers = [asyncio.create_task(self._work(), name="mirror") for _ in range(self._concurrency)]

    async def close(self) -> None:
        """End at once: what waits is not asked any more."""
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)
        await self._pool.close()
        if self._file is not None:
            await asyncio.to_thread(self._file.close)

    def offer(self, copy: Copy) -> None:
        """Queue a copy, or drop it when there is no room. Never waits."""
        size_bytes = copy.size_bytes
        if self._queue.full() or self._queued_bytes + size_bytes > self._max_queued_bytes:
            self._count(copy, "dropped")
            return
        self._queued_bytes += size_bytes
        self._queue.put_nowait(copy)

    async def watched(self, answers: AsyncGenerator[Answer, None], copy: Copy) -> AsyncGenerator[Answer, None]:
        """`answers` as they are; `copy`, which has none yet, gets them and is offered after the last one."""
        size_bytes = len(copy.request)
        async with aclosing(answers):
            async for response, content in answers:
                if size_bytes <= self._max_queued_bytes:
                    copy.answers.append(response.SerializeToString() if content is None else content)
                    size_bytes += len(copy.answers[-1])
                yield response, content
        self.offer(copy)

    async def _work(self) -> None:
        while True:
            copy = await self._queue.get()
            self._queued_bytes -= copy.size_bytes
            try:
                await self._compare(copy)
            except Exception:
                # The top of a task: whatever it is, the next copy is asked.
                log.exception("mirror_failed", request_id=copy.request_id)

    async def _compare(self, copy: Copy) -> None:
        started = time.monotonic()
        error: MeshError | None = None
        answers: list[bytes] = []
        deadline = started + self._timeout_s
        with context.bind(context.RequestContext(copy.request_id, deadline, priority=-context.MAX_PRIORITY)):
            try:
                async with asyncio.timeout(self._timeout_s):
                    answers = await self._ask(copy)
            except MeshError as failure:
                error = failure
            except TimeoutError:
                error = DeadlineExceeded(f"no answer within {self._timeout_s:g} s")
        seconds = time.monotonic() - started
        self._count(copy, await asyncio.to_thread(self._record, copy, answers, error, seconds))

    async def _ask(self, copy: Copy) -> list[bytes]:
        """All messages of the other version's answer. Raises MeshError."""
        name, version = copy.route.deployment.name, copy.route.mirror
        kind, request = self._pool.first_hop(name), _copied_request(copy)
        timeout_s = self._timeout_s

        async def unary(channel: grpc.aio.Channel) -> bytes:
            rpc: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(copy.method)
            return await rpc(request, timeout=timeout_s)

        def stream(channel: grpc.aio.Channel) -> AsyncIterable[bytes]:
            rpc: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(copy.method)
            return rpc(request, timeout=timeout_s)

        if copy.method != GENERATE:
            return [await self._pool.unary(kind, name, unary, version=version)]
        answers, size_bytes = [], 0
        async with aclosing(self._pool.stream(kind, name, stream, version=version)) as messages:
            async for message in messages:
                answers.append(message)
                size_bytes += len(message)
                if size_bytes > self._max_queued_bytes:
                    raise MessageTooLarge("the mirrored answer is too large to keep")
        return answers

    def _record(self, copy: Copy, answers: list[bytes], error: MeshError | None, seconds: float) -> str:
        """Compare and write; gives the outcome. May take a while: not for the event loop."""
        comparison: Comparison | None = None
        if error is None:
            try:
                comparison = _compared(copy, answers)
            except MeshError as failure:
                error = failure
        outcome = "failed" if comparison is None else "equal" if comparison.is_equal else "different"
        if self._file is not None:
            record = {
                "request_id": copy.request_id,
                "time": datetime.now(UTC).isoformat(timespec="microseconds"),
                "deployment": copy.route.deployment.name,
                "method": copy.method,
                "served_by": copy.route.served_by,
                "mirror": f"{copy.route.deployment.name}/{copy.route.mirror}",
                "outcome": outcome,
                "error": None if error is None else error.message,
                "seconds": round(seconds, 6),
                "outputs": [] if comparison is None else comparison.outputs,
            }
            with self._writing:
                _, failure_to_write = self._file.append([orjson.dumps(record) + b"\n"])
            if failure_to_write is not None:
                log.error("mirror_log_failed", path=str(self._file.path), error=str(failure_to_write))
        return outcome

    def _count(self, copy: Copy, outcome: str) -> None:
        self._copies.labels(copy.route.deployment.name, outcome).inc()


def mirror_file(path: Path, max_bytes: int, max_files: int) -> RotatingFile:
    """The file of what mirrors found: beside the prediction log, whose records have the same request ids."""
    return RotatingFile(path.with_name("mirrors.jsonl"), max_bytes, max_files)


def _copied_request(copy: Copy) -> bytes:
    if copy.method != GENERATE:
        return copy.request + wire.string_field((_MODEL_VERSION,), copy.route.mirror)
    request = lm.GenerateRequest.FromString(copy.request)
    request.model_version = copy.route.mirror
    request.priority = min(request.priority, PRIORITY)
    if copy.answers and (first := lm.GenerateResponse.FromString(copy.answers[0])).HasField("start"):
        request.sampling.seed = first.start.seed
    return request.SerializeToString()


def _compared(copy: Copy, answers: list[bytes]) -> Comparison:
    if copy.method == GENERATE:
        return compare_texts(copy.answers, answers)
    return compare_tensors(copy.answers[0], answers[0])


def _request_id() -> str:
    request = context.current()
    return request.request_id if request else context.new_request_id()

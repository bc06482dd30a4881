"""Dynamic batching: requests that come at the same time are computed together, along the first dimension.

It adapts to load by itself. While the model is free a request runs at once, in its own task. While the model computes,
what arrives gathers, and goes together when it ends; a delay adds waiting only where a deployment sets one. The idea is
Clipper's (Crankshaw et al., 2017, §4.3), with the batch size that the load makes rather than one that is searched for.

A neighbour is never felt in a result: what fails together runs again one by one, so that only the bad request fails; a
cancelled one is left out of what has not begun. How requests are read, checked and encoded is not known here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextvars import Context

from mesh import context
from mesh.context import RequestContext
from mesh.errors import ModelNotReady, Overloaded
from mesh.logs import get_logger
from predictor.batching_options import BatchingOptions
from predictor.batching_queue import BatchQueue, WaitingRequest
from predictor.batching_rows import join_rows, split_rows
from predictor.runtimes.base import Arrays, Runtime
from predictor.signature import Signature
from predictor.statistics import ModelStatistics, Stopwatch

log = get_logger(__name__)

# As a batch's most rows: not even requests without rows go together.
ALONE = -1


class Batcher:
    """The way to one loaded model, whose `name` is in errors and logs. Requests' deadlines are on the clock `now`.

    Not thread-safe: one event loop calls everything.
    """

    def __init__(
        self,
        name: str,
        runtime: Runtime,
        signature: Signature,
        statistics: ModelStatistics,
        options: BatchingOptions,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        max_rows = signature.metadata.max_batch_size
        self._name = name
        self._runtime = runtime
        self._signature = signature
        self._statistics = statistics
        self._options = options
        self._now = now
        self._is_joining = options.batching and signature.has_rows
        self._queue = BatchQueue(
            max_rows=min(options.batching_max_rows or max_rows, max_rows),
            max_bytes=options.batching_max_bytes,
            delay_s=options.batching_delay_us / 1e6,
        )
        self._num_running = 0
        self._running: dict[asyncio.Task[None], list[WaitingRequest]] = {}
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_joining(self) -> bool:
        """Whether requests are joined: the model has a batch dimension, keeps to it, and the deployment allows it."""
        return self._is_joining

    @property
    def num_waiting(self) -> int:
        """Requests that wait for the model."""
        return len(self._queue)

    @property
    def num_running(self) -> int:
        """Batches that are computed now, where requests are joined."""
        return self._num_running

    async def infer(self, inputs: Arrays, watch: Stopwatch) -> Arrays:
        """As the runtime's `infer`, of `watch.batch_size` rows, perhaps together with others.

        Raises Overloaded when too many wait, DeadlineExceeded when the request's time ran out before its turn.
        """
        if not self._is_joining:
            return await self._execute(inputs, watch.batch_size)
        options = self._options
        if self._num_running < options.batching_concurrency and not self._queue and options.batching_delay_us == 0:
            self._num_running += 1
            return await self._run_here(inputs, watch)
        waiting = self._enqueue(inputs, watch)
        try:
            outputs = await waiting.outcome
        except asyncio.CancelledError:
            self._give_up(waiting)
            raise
        return await self._run_here(inputs, watch) if outputs is None else outputs

    async def close(self) -> None:
        """Refuse what waits and end what runs together. The model is about to be unloaded."""
        if self._timer is not None:
            self._timer.cancel()
        for waiting in self._queue.take_all():
            self._refuse(waiting)
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _enqueue(self, inputs: Arrays, watch: Stopwatch) -> WaitingRequest:
        limit = self._options.batching_max_waiting
        if len(self._queue) >= limit:
            raise Overloaded(f"model '{self._name}' has {limit} requests waiting, as many as it takes")
        waiting = WaitingRequest(
            inputs=inputs,
            lane=self._signature.joins_with(inputs),
            num_rows=watch.batch_size,
            watch=watch,
            request=context.current(),
            outcome=asyncio.get_running_loop().create_future(),
            arrived=self._now(),
        )
        self._queue.put(waiting)
        self._advance()
        return waiting

    def _give_up(self, waiting: WaitingRequest) -> None:
        """The request was cancelled: while it waited, while it was computed with others, or as its turn came."""
        self._queue.remove(waiting)
        outcome = waiting.outcome
        if not outcome.cancelled() and outcome.exception() is None and outcome.result() is None:
            self._release()
        for task, batch in self._running.items():
            if waiting in batch and all(each.outcome.cancelled() for each in batch):
                task.cancel()

    def _advance(self) -> None:
        """Start what may start now, and see to it that the rest is looked at in time."""
        while self._queue and (self._num_running < self._options.batching_concurrency or not self._is_joining):
            batch = self._queue.take(self._now())
            if not batch:
                self._arm_timer()
                return
            self._num_running += 1
            if len(batch) == 1:
                batch[0].outcome.set_result(None)
            else:
                # A context of its own: the batch is nobody's request, least of all that of whoever came by just now.
                task = asyncio.create_task(self._run_together(batch), name=f"batch of {self._name}", context=Context())
                self._running[task] = batch
                task.add_done_callback(self._running.pop)

    def _arm_timer(self) -> None:
        """Look again when the first request has waited its delay. A timer that is set comes early at worst."""
        if self._queue and self._timer is None:
            delay_s = max(0.0, self._queue.next_due() - self._now())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._advance()

    def _release(self) -> None:
        self._num_running -= 1
        self._advance()

    async def _run_here(self, inputs: Arrays, watch: Stopwatch) -> Arrays:
        """Run one request in its own task, in the place that was taken for it."""
        watch.dequeued()
        try:
            return await self._execute(inputs, watch.batch_size)
        finally:
            self._release()

    async def _run_together(self, batch: list[WaitingRequest]) -> None:
        """Run a batch and answer each of its requests, whatever happens."""
        try:
            for waiting in batch:
                waiting.watch.dequeued()
            with context.bind(_shared_context(batch)):
                parts = await self._join(batch)
            if parts is None:
                await self._run_one_by_one(batch)
            else:
                for waiting, part in zip(batch, parts, strict=True):
                    if not waiting.outcome.done():
                        waiting.outcome.set_result(part)
        finally:
            # Nothing is left here but when the batch itself was cancelled: its model is unloaded.
            for waiting in batch:
                self._refuse(waiting)
            self._release()

    async def _join(self, batch: list[WaitingRequest]) -> list[Arrays] | None:
        """Each request's outputs; None when they must run one by one."""
        num_rows = [waiting.num_rows for waiting in batch]
        started_ns = self._statistics.now_ns()
        try:
            inputs = join_rows([waiting.inputs for waiting in batch])
            joined_ns = self._statistics.now_ns()
            outputs = await self._runtime.infer(inputs)
        except Exception as error:  # whose fault it is shows when each runs alone, and only that one gets to see it
            log.debug("batch_failed", model=self._name, requests=len(batch), error=type(error).__name__)
            return None
        inferred_ns = self._statistics.now_ns()
        parts = split_rows(outputs, num_rows)
        if parts is None:
            self._is_joining = False
            self._queue.max_rows = ALONE
            shapes = {name: list(array.shape) for name, array in outputs.items()}
            log.warning("model_not_batchable", model=self._name, rows=sum(num_rows), outputs=shapes)
            return None
        split_ns = self._statistics.now_ns()
        self._statistics.executed(
            sum(num_rows), inferred_ns - joined_ns, join_ns=joined_ns - started_ns, split_ns=split_ns - inferred_ns
        )
        return parts

    async def _run_one_by_one(self, batch: list[WaitingRequest]) -> None:
        for waiting in batch:
            if waiting.outcome.done() or waiting.refuse_if_expired(self._now()):
                continue
            try:
                with context.bind(waiting.request or RequestContext(context.new_request_id())):
                    outputs = await self._execute(waiting.inputs, waiting.num_rows)
            except Exception as error:  # handed to the task whose request it is, which raises it
                if not waiting.outcome.done():
                    waiting.outcome.set_exception(error)
            else:
                if not waiting.outcome.done():
                    waiting.outcome.set_result(outputs)

    async def _execute(self, inputs: Arrays, num_rows: int) -> Arrays:
        started_ns = self._statistics.now_ns()
        outputs = await self._runtime.infer(inputs)
        self._statistics.executed(num_rows, self._statistics.now_ns() - started_ns)
        return outputs

    def _refuse(self, waiting: WaitingRequest) -> None:
        if not waiting.outcome.done():
            waiting.outcome.set_exception(ModelNotReady(f"model '{self._name}' was unloaded while the request waited"))


def _shared_context(batch: list[WaitingRequest]) -> RequestContext:
    """For what runs for several requests: the first one's id, and time as long as any of them has."""
    contexts = [waiting.request for waiting in batch if waiting.request is not None]
    deadlines = [request.deadline for request in contexts if request.deadline is not None]
    has_limit = len(deadlines) == len(batch)
    return RequestContext(
        request_id=contexts[0].request_id if contexts else context.new_request_id(),
        deadline=max(deadlines) if has_limit else None,
    )

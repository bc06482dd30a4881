"""Where requests wait while no replica can take them: all have their most in flight, or none is ready.

One fair queue for each target. A request leaves it with a replica on which its place is already counted, with an error
when it has no place in the queue or has waited too long, or because its caller gave up. Who may have a request is the
choice's to say: it is asked whenever a call has ended or the view has changed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from mesh import context
from mesh.attempt_failure import service_name
from mesh.balancing import Request
from mesh.call_limits import CallLimits
from mesh.endpoints import Endpoint, EndpointSet, Target, serves
from mesh.errors import DeadlineExceeded, MeshError, Overloaded
from mesh.fair_queue import Entry, FairQueue
from mesh.pool_metrics import PoolMetrics

# How often those who wait look for what no event tells: a replica whose time outside is over, a view that nobody
# announced.
_LOOK_S = 0.1
_LONGEST_RETRY_AFTER_S = 60.0


@dataclass(slots=True, eq=False)
class _Waiter:
    """since: on the loop's clock. granted: the replica to use, or why there is none."""

    target: Target
    request: Request
    since: float
    granted: asyncio.Future[Endpoint]


class _Queue:
    """The requests that wait for one target. last_wait_s: of the one that left it last with a replica."""

    def __init__(self, capacity: int) -> None:
        self.waiting: FairQueue[_Waiter] = FairQueue(capacity)
        self.last_wait_s = 0.0


class RequestQueues:
    """Those of one pool. Use from one event loop only."""

    def __init__(
        self,
        endpoints: EndpointSet,
        limits: CallLimits,
        metrics: PoolMetrics,
        grant: Callable[[Target, Request], Endpoint | None],
    ) -> None:
        """grant: a replica that may take a request of the target now, or None."""
        self._endpoints = endpoints
        self._limits = limits
        self._metrics = metrics
        self._grant = grant
        self._queues: dict[Target, _Queue] = {}
        self._look: asyncio.TimerHandle | None = None

    def is_waited_for(self, target: Target) -> bool:
        """True when others wait for the target: who comes now stands behind them."""
        return target in self._queues

    async def wait(
        self, target: Target, request: Request, limit_s: float, too_late: Callable[[float], MeshError]
    ) -> Endpoint:
        """The replica for a request, once there is one. The caller dispatches to it before it awaits anything.

        too_late: the error after `limit_s`, from the seconds waited. Raises Overloaded when the queue is full, and
        DeadlineExceeded when the request's own time is up first.
        """
        loop = asyncio.get_running_loop()
        waiter = _Waiter(target, request, loop.time(), loop.create_future())
        entry = Entry(waiter, _tenant(), _priority(request), max(request.cost, 1.0))
        self._enter(target, entry)
        timer = self._start_timer(waiter, limit_s, too_late)
        try:
            self._serve(target)
            endpoint = await waiter.granted
        except asyncio.CancelledError:
            if waiter.granted.done() and not waiter.granted.cancelled() and waiter.granted.exception() is None:
                # Granted in the same turn in which the caller gave up: the place is another's.
                self._endpoints.release(waiter.granted.result(), request.cost)
            raise
        finally:
            timer.cancel()
            self._leave(target, entry)
        self._endpoints.unreserve(endpoint, request.cost)
        return endpoint

    def serve(self) -> None:
        """Let go whoever can. To be called when something has changed."""
        for target in list(self._queues):
            self._serve(target)

    def freed(self, endpoint: Endpoint) -> None:
        """As `serve`, after a call has ended at one replica."""
        if self._queues:
            for target in [target for target in self._queues if serves(endpoint.replica, target)]:
                self._serve(target)

    def close(self) -> None:
        """Let nobody wait any more; those who do are cancelled."""
        for queue in list(self._queues.values()):
            for entry in queue.waiting.entries():
                entry.item.granted.cancel()

    def _enter(self, target: Target, entry: Entry[_Waiter]) -> None:
        queue = self._queues.get(target) or _Queue(self._limits.max_queued)
        loser = queue.waiting.push(entry)
        if loser is not None:
            service = service_name(target.kind)
            self._metrics.refused.labels(service).inc()
            sentence = f"{self._limits.max_queued} requests wait for the {service} of '{target.deployment}' already"
            retry_after_s = min(_LONGEST_RETRY_AFTER_S, max(1.0, queue.last_wait_s))
            error = Overloaded(f"{sentence}, and that is the limit", retry_after_s=retry_after_s)
            if loser is entry:
                raise error
            _fail(loser.item, error)
        self._queues[target] = queue
        self._metrics.queue_depth.labels(service_name(target.kind)).inc()
        if self._look is None:
            self._look = asyncio.get_running_loop().call_later(_LOOK_S, self._look_again)

    def _leave(self, target: Target, entry: Entry[_Waiter]) -> None:
        """Once for each that entered, however it ends."""
        self._metrics.queue_depth.labels(service_name(target.kind)).dec()
        queue = self._queues.get(target)
        if queue is not None:
            queue.waiting.remove(entry)
            self._forget_if_empty(target, queue)

    def _serve(self, target: Target) -> None:
        queue = self._queues.get(target)
        while queue is not None and len(queue.waiting):
            waiter = queue.waiting.first().item
            if waiter.granted.done():  # its caller gave up, and has not run yet
                queue.waiting.pop()
                continue
            endpoint = self._grant(waiter.target, waiter.request)
            if endpoint is None:
                return
            queue.waiting.pop()
            self._endpoints.reserve(endpoint, waiter.request.cost)
            queue.last_wait_s = asyncio.get_running_loop().time() - waiter.since
            self._metrics.queue_wait.labels(service_name(target.kind)).observe(queue.last_wait_s)
            waiter.granted.set_result(endpoint)
        if queue is not None:
            self._forget_if_empty(target, queue)

    def _forget_if_empty(self, target: Target, queue: _Queue) -> None:
        if not len(queue.waiting):
            self._queues.pop(target, None)
        if not self._queues and self._look is not None:
            self._look.cancel()
            self._look = None

    def _look_again(self) -> None:
        self._look = asyncio.get_running_loop().call_later(_LOOK_S, self._look_again)
        self.serve()

    def _start_timer(
        self, waiter: _Waiter, limit_s: float, too_late: Callable[[float], MeshError]
    ) -> asyncio.TimerHandle:
        left_s = context.remaining_s(default=limit_s)
        assert left_s is not None  # there is a default
        loop = asyncio.get_running_loop()
        if left_s < limit_s:
            sentence = f"the request's time ran out while it waited for a replica of '{waiter.target.deployment}'"
            return loop.call_later(left_s, lambda: _fail(waiter, DeadlineExceeded(sentence)))
        return loop.call_later(limit_s, lambda: _fail(waiter, too_late(loop.time() - waiter.since)))


def _fail(waiter: _Waiter, error: MeshError) -> None:
    if not waiter.granted.done():
        waiter.granted.set_exception(error)


def _tenant() -> str:
    request = context.current()
    return request.tenant if request is not None else ""


def _priority(request: Request) -> int:
    if request.priority is None:
        current = context.current()
        return current.priority if current is not None else 0
    return max(-context.MAX_PRIORITY, min(context.MAX_PRIORITY, request.priority))

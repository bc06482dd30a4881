"""The requests that wait for one model, and which of them go next, together.

Knows no tasks and no model: the batcher puts requests in, takes batches out, and is told the time. Requests that can be
joined stand in one lane, in the order in which they came; among the lanes that may go, the one whose first request is
the oldest goes next, so that none is passed by for ever.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Hashable
from dataclasses import dataclass, field

from mesh.context import RequestContext
from mesh.errors import DeadlineExceeded
from predictor.runtimes.base import Arrays
from predictor.statistics import Stopwatch


@dataclass(slots=True, eq=False)
class WaitingRequest:
    """One request on its way to the model.

    outcome: its part of the outputs, or None when it is to run alone in its own task: then the place is its own.
    arrived, deadline: on the queue's clock, in seconds; the deadline may be None. is_in_lane: it waits still.
    """

    inputs: Arrays
    lane: Hashable
    num_rows: int
    watch: Stopwatch
    request: RequestContext | None
    outcome: asyncio.Future[Arrays | None]
    arrived: float
    size_bytes: int = field(init=False)
    is_in_lane: bool = True

    def __post_init__(self) -> None:
        self.size_bytes = sum(array.nbytes for array in self.inputs.values())

    def refuse_if_expired(self, now: float) -> bool:
        """Whether its time is up; then it is answered so. It has no answer yet."""
        if self.request is None or self.request.deadline is None or self.request.deadline > now:
            return False
        self.outcome.set_exception(DeadlineExceeded("the request's time ran out while it waited for the model"))
        return True


@dataclass(slots=True)
class _Lane:
    waiting: deque[WaitingRequest] = field(default_factory=deque)
    num_rows: int = 0


class BatchQueue:
    """max_rows, max_bytes: of one batch; a request that is larger goes alone. delay_s: see `take`."""

    def __init__(self, *, max_rows: int, max_bytes: int, delay_s: float) -> None:
        self.max_rows = max_rows
        self._max_bytes = max_bytes
        self._delay_s = delay_s
        self._lanes: dict[Hashable, _Lane] = {}
        self._num_waiting = 0

    def __len__(self) -> int:
        return self._num_waiting

    def put(self, request: WaitingRequest) -> None:
        lane = self._lanes.get(request.lane)
        if lane is None:
            lane = self._lanes[request.lane] = _Lane()
        lane.waiting.append(request)
        lane.num_rows += request.num_rows
        self._num_waiting += 1

    def remove(self, request: WaitingRequest) -> None:
        """Take out a request that gave up; nothing happens when it is on its way already."""
        if not request.is_in_lane:
            return
        lane = self._lanes[request.lane]
        lane.waiting.remove(request)
        self._left(request.lane, lane, request)

    def take(self, now: float) -> list[WaitingRequest]:
        """The next batch. Empty when nothing may go yet: then every first request is younger than the delay, and no
        lane holds a whole batch.

        An expired request is answered with DeadlineExceeded here instead, and one that was cancelled is left out.
        """
        while (key := self._next_lane(now)) is not None:
            batch = self._take_from(key, self._lanes[key], now)
            if batch:
                return batch
        return []

    def next_due(self) -> float:
        """When `take` will give something at last. The queue is not empty."""
        return min(lane.waiting[0].arrived for lane in self._lanes.values()) + self._delay_s

    def take_all(self) -> list[WaitingRequest]:
        """Everything, to end it."""
        requests = [request for lane in self._lanes.values() for request in lane.waiting]
        for request in requests:
            request.is_in_lane = False
        self._lanes.clear()
        self._num_waiting = 0
        return requests

    def _next_lane(self, now: float) -> Hashable | None:
        oldest: Hashable | None = None
        arrived = float("inf")
        for key, lane in self._lanes.items():
            first = lane.waiting[0]
            may_go = self._delay_s == 0 or now - first.arrived >= self._delay_s or lane.num_rows >= self.max_rows
            if may_go and first.arrived < arrived:
                oldest, arrived = key, first.arrived
        return oldest

    def _take_from(self, key: Hashable, lane: _Lane, now: float) -> list[WaitingRequest]:
        batch: list[WaitingRequest] = []
        num_rows = size_bytes = 0
        while lane.waiting:
            request = lane.waiting[0]
            num_rows += request.num_rows
            size_bytes += request.size_bytes
            if batch and (num_rows > self.max_rows or size_bytes > self._max_bytes):
                break
            lane.waiting.popleft()
            self._left(key, lane, request)
            if request.outcome.done() or request.refuse_if_expired(now):
                num_rows -= request.num_rows
                size_bytes -= request.size_bytes
                continue
            batch.append(request)
        return batch

    def _left(self, key: Hashable, lane: _Lane, request: WaitingRequest) -> None:
        request.is_in_lane = False
        lane.num_rows -= request.num_rows
        self._num_waiting -= 1
        if not lane.waiting:
            del self._lanes[key]

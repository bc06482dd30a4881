"""What goes next: lanes, limits, delays; and, by property, the whole batcher under any order of events."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.context import RequestContext
from mesh.errors import DeadlineExceeded
from predictor.batching_queue import BatchQueue, WaitingRequest
from predictor.statistics import ModelStatistics
from tests.predictor.stepped_runtime import BAD, METADATA, Bench, SteppedRuntime, answer


def waiting(lane: str, num_rows: int = 1, arrived: float = 0.0, deadline: float | None = None) -> WaitingRequest:
    return WaitingRequest(
        inputs={"x": np.zeros((num_rows, 2))},
        lane=lane,
        num_rows=num_rows,
        watch=ModelStatistics().request(),
        request=RequestContext(lane, deadline),
        outcome=asyncio.get_running_loop().create_future(),
        arrived=arrived,
    )


def queue_of(*requests: WaitingRequest, max_rows: int = 4, delay_s: float = 0.0) -> BatchQueue:
    queue = BatchQueue(max_rows=max_rows, max_bytes=1 << 20, delay_s=delay_s)
    for request in requests:
        queue.put(request)
    return queue


async def test_the_lane_of_the_oldest_request_goes_first() -> None:
    b0, a1, b2 = waiting("b", arrived=0), waiting("a", arrived=1), waiting("b", arrived=2)
    queue = queue_of(b0, a1, b2)

    assert queue.take(3) == [b0, b2]
    assert queue.take(3) == [a1]
    assert queue.take(3) == []
    assert len(queue) == 0


async def test_a_request_that_does_not_fit_is_not_overtaken_in_its_lane() -> None:
    three, two, one = waiting("a", 3), waiting("a", 2), waiting("a", 1)
    queue = queue_of(three, two, one)

    assert queue.take(0) == [three]
    assert queue.take(0) == [two, one]


async def test_requests_without_rows_fit_into_a_full_batch() -> None:
    four, nothing = waiting("a", 4), waiting("a", 0)

    assert queue_of(four, nothing).take(0) == [four, nothing]


async def test_a_young_lane_waits_and_a_full_one_does_not() -> None:
    young, full = waiting("a", 1, arrived=1), waiting("b", 4, arrived=2)
    queue = queue_of(young, full, delay_s=10)

    assert queue.take(3) == [full]
    assert queue.take(3) == []
    assert queue.next_due() == 11
    assert queue.take(11) == [young]


async def test_what_was_removed_or_cancelled_is_left_out() -> None:
    removed, cancelled, kept = waiting("a"), waiting("a"), waiting("a")
    queue = queue_of(removed, cancelled, kept)
    cancelled.outcome.cancel()

    queue.remove(removed)
    queue.remove(removed)

    assert queue.take(0) == [kept]
    queue.remove(kept)
    assert len(queue) == 0


async def test_expired_requests_are_answered_and_the_next_lane_goes() -> None:
    late, other = waiting("a", arrived=0, deadline=5), waiting("b", arrived=1)
    queue = queue_of(late, other)

    assert queue.take(5) == [other]
    with pytest.raises(DeadlineExceeded):
        late.outcome.result()


async def test_take_all_leaves_nothing() -> None:
    requests = [waiting("a"), waiting("b"), waiting("a")]
    queue = queue_of(*requests)

    assert set(queue.take_all()) == set(requests)
    assert len(queue) == 0
    queue.remove(requests[0])
    assert queue.take(0) == []


@dataclass(frozen=True)
class Arrival:
    rows: int
    width: int
    has_bias: bool
    is_bad: bool


@dataclass(frozen=True)
class Cancel:
    index: int


@dataclass(frozen=True)
class Step:
    """The run that has waited longest ends; `settles` lets its consequences happen at once."""

    settles: bool


EVENTS = st.lists(
    st.one_of(
        st.builds(
            Arrival,
            rows=st.integers(0, 8),
            width=st.integers(1, 2),
            has_bias=st.booleans(),
            is_bad=st.sampled_from([False] * 5 + [True]),
        ),
        st.builds(Cancel, index=st.integers(0, 30)),
        st.builds(Step, settles=st.booleans()),
    ),
    max_size=40,
)


@settings(max_examples=300, deadline=None)
@given(events=EVENTS, concurrency=st.integers(1, 3), max_rows=st.integers(0, 8), delay_us=st.sampled_from([0, 0, 1]))
def test_every_answer_is_the_answer_alone(
    events: list[Arrival | Cancel | Step], concurrency: int, max_rows: int, delay_us: int
) -> None:
    asyncio.run(play(events, concurrency, max_rows, delay_us))


async def play(events: list[Arrival | Cancel | Step], concurrency: int, max_rows: int, delay_us: int) -> None:
    bench = Bench(
        SteppedRuntime(), batching_concurrency=concurrency, batching_max_rows=max_rows, batching_delay_us=delay_us
    )
    requests: list[tuple[asyncio.Task[object], np.ndarray, np.ndarray | None]] = []  # type: ignore[type-arg]
    cancelled_early: set[float] = set()
    for event in events:
        if isinstance(event, Arrival):
            x = np.full((event.rows, event.width), float(len(requests)))  # every row says whose it is
            if event.is_bad and event.rows:
                x[-1, -1] = BAD
            bias = np.arange(event.rows, dtype=float) if event.has_bias else None
            requests.append((bench.start(x, bias), x, bias))  # type: ignore[arg-type]
        elif isinstance(event, Cancel) and requests:
            index = event.index % len(requests)
            task = requests[index][0]
            begun = {row for execution in bench.runtime.executions for row in execution.x.ravel().tolist()}
            if task.cancel() and float(index) not in begun:
                cancelled_early.add(float(index))
        elif isinstance(event, Step):
            if bench.runtime.waiting:
                bench.runtime.waiting[0].go.set()
            if event.settles:
                await bench.settle()
        else:
            await asyncio.sleep(0)
        bench.now += 1.0
    while bench.runtime.waiting or not all(task.done() for task, _, _ in requests):
        bench.now += 1.0
        await bench.finish()

    check_answers(requests)
    check_executions(bench, cancelled_early, max_rows or METADATA.max_batch_size, largest(requests))
    assert (bench.batcher.num_waiting, bench.batcher.num_running) == (0, 0)
    statistics = bench.statistics
    assert statistics.success.count + statistics.fail.count + statistics.cancelled.count <= len(requests)
    assert statistics.inference_count == sum(len(x) for task, x, _ in requests if succeeded(task))
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


def succeeded(task: asyncio.Task[object]) -> bool:
    return not task.cancelled() and task.exception() is None


def largest(requests: list[tuple[asyncio.Task[object], np.ndarray, np.ndarray | None]]) -> int:  # type: ignore[type-arg]
    return max((len(x) for _, x, _ in requests), default=0)


def check_answers(requests: list[tuple[asyncio.Task[object], np.ndarray, np.ndarray | None]]) -> None:  # type: ignore[type-arg]
    for task, x, bias in requests:
        if task.cancelled():
            continue
        if (x == BAD).any():
            assert isinstance(task.exception(), ValueError)
            continue
        expected = answer({"x": x} if bias is None else {"x": x, "bias": bias})
        outputs = task.result()
        assert isinstance(outputs, dict)
        for name, array in expected.items():
            np.testing.assert_array_equal(outputs[name], array)


def check_executions(bench: Bench, cancelled_early: set[float], max_rows: int, largest_request: int) -> None:
    for execution in bench.runtime.executions:
        owners = [row for row in execution.x[:, 0].tolist() if row != BAD]
        assert not cancelled_early & set(owners), "what was cancelled before it began is not computed"
        assert all(one <= next_one for one, next_one in pairwise(owners)), "rows stay in the order of arrival"
        assert len(execution.x) <= max(max_rows, largest_request)
        if len(execution.x) > max_rows:
            assert len(set(owners)) == 1, "only a request that is too large by itself goes above the limit, alone"

"""The batcher with a model that the test steps through: what runs together, and what never touches its neighbours."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest
from structlog.testing import capture_logs

from mesh.errors import DeadlineExceeded, ModelNotReady, Overloaded
from mesh.testing import eventually
from predictor.statistics import Duration
from tests.predictor.stepped_runtime import BAD, Bench, SteppedRuntime


async def busy(**options: int | bool) -> tuple[Bench, asyncio.Task[object]]:
    """A model that computes one request already."""
    bench = Bench(SteppedRuntime(), **options)
    first = bench.start([0.0])
    await bench.settle()
    return bench, first  # type: ignore[return-value]


async def test_a_lone_request_runs_at_once_in_its_own_task() -> None:
    bench = Bench(SteppedRuntime(is_free=True))
    coroutine = bench.ask([1.0, 2.0])

    with pytest.raises(StopIteration) as end:  # the very first step ends it: nothing was waited for
        coroutine.send(None)

    assert end.value.value["y"].tolist() == [[2.0, 4.0]]


async def test_what_arrives_while_the_model_computes_goes_together() -> None:
    bench, first = await busy()
    others = [bench.start([float(n)]) for n in (1, 2, 3)]
    await bench.settle()
    assert bench.batcher.num_waiting == 3

    await bench.finish()

    assert bench.runtime.rows == [1, 3]
    assert [(await each)["y"].tolist() for each in others] == [[[2.0]], [[4.0]], [[6.0]]]
    await first


async def test_a_single_request_that_waited_runs_in_its_own_context() -> None:
    bench, first = await busy()
    other = bench.start([1.0], request_id="other")
    await bench.settle()

    await bench.finish()
    await asyncio.gather(first, other)

    request = bench.runtime.executions[1].request
    assert request is not None
    assert request.request_id == "other"


async def test_a_batch_is_never_larger_than_the_model_takes_and_no_request_is_split() -> None:
    bench, first = await busy()
    others = [bench.start([[float(n)]] * rows) for n, rows in enumerate((3, 3, 3, 8, 1))]
    await bench.settle()

    await bench.finish()

    assert bench.runtime.rows == [1, 6, 3, 8, 1]
    assert [len((await each)["y"]) for each in others] == [3, 3, 3, 8, 1]
    await first


async def test_the_deployment_can_want_smaller_batches() -> None:
    bench, first = await busy(batching_max_rows=2)
    others = [bench.start([1.0]) for _ in range(3)]
    await bench.settle()

    await bench.finish()

    assert bench.runtime.rows == [1, 2, 1]
    await asyncio.gather(first, *others)


async def test_what_is_large_is_not_copied_together() -> None:
    bench, first = await busy(batching_max_bytes=40)
    others = [bench.start([1.0] * 4), bench.start([2.0] * 4), bench.start([[1.0] * 4] * 2)]
    await bench.settle()

    await bench.finish()

    assert bench.runtime.rows == [1, 1, 1, 2]
    await asyncio.gather(first, *others)


async def test_other_shapes_and_other_sets_of_inputs_are_not_mixed() -> None:
    bench, first = await busy()
    others = [
        bench.start([1.0]),
        bench.start([1.0, 2.0]),
        bench.start([3.0]),
        bench.start([4.0], [0.5]),
        bench.start([5.0, 6.0]),
    ]
    await bench.settle()

    await bench.finish()

    assert bench.runtime.rows == [1, 2, 2, 1]
    assert [(await each)["total"].tolist() for each in others] == [[1.0], [3.0], [3.0], [4.5], [11.0]]
    await first


async def test_one_bad_request_fails_alone() -> None:
    bench, first = await busy()
    good, bad, other = bench.start([1.0]), bench.start([BAD]), bench.start([2.0])
    await bench.settle()

    await bench.finish()

    assert (await good)["y"].tolist() == [[2.0]]
    assert (await other)["y"].tolist() == [[4.0]]
    with pytest.raises(ValueError, match="a bad row"):
        await bad
    await first
    assert bench.statistics.execution_count == 3, "the first and the two good ones; what failed is none"
    assert (bench.statistics.success.count, bench.statistics.fail.count) == (3, 1)


async def test_a_request_cancelled_before_its_turn_is_not_computed_and_gives_its_place_back() -> None:
    bench, first = await busy(batching_max_waiting=2)
    kept, gone = bench.start([1.0]), bench.start([2.0])
    await bench.settle()

    gone.cancel()
    await bench.settle()
    assert bench.batcher.num_waiting == 1
    late = bench.start([3.0])
    await bench.settle()
    await bench.finish()

    assert bench.runtime.executions[1].x.tolist() == [[1.0], [3.0]]
    assert ((await kept)["y"].tolist(), (await late)["y"].tolist()) == ([[2.0]], [[6.0]])
    assert gone.cancelled()
    assert bench.statistics.cancelled.count == 1
    await first


async def test_a_request_cancelled_in_the_middle_leaves_its_neighbours_exact() -> None:
    bench, first = await busy()
    kept, gone = bench.start([1.0]), bench.start([2.0])
    await bench.settle()
    bench.runtime.waiting[0].go.set()
    await bench.settle()

    gone.cancel()
    await bench.settle()
    await bench.finish()

    assert (await kept)["y"].tolist() == [[2.0]]
    assert gone.cancelled()
    await first


async def test_a_batch_that_nobody_waits_for_any_more_is_cancelled() -> None:
    bench, first = await busy()
    others = [bench.start([1.0]), bench.start([2.0])]
    await bench.settle()
    bench.runtime.waiting[0].go.set()
    await bench.settle()

    for each in others:
        each.cancel()
    await bench.settle()

    assert bench.runtime.executions[1].is_cancelled
    await first
    bench.runtime.is_free = True
    assert (await bench.ask([5.0]))["y"].tolist() == [[10.0]]


async def test_a_request_cancelled_as_its_turn_comes_passes_the_turn_on() -> None:
    bench, first = await busy(batching_max_rows=1)
    gone, kept = bench.start([1.0]), bench.start([2.0])
    await bench.settle()
    bench.runtime.is_free = True
    bench.runtime.waiting[0].go.set()

    # Right after the step that ends the first and gives the turn away, and before the one that takes it.
    asyncio.get_running_loop().call_soon(gone.cancel)
    await first

    assert (await kept)["y"].tolist() == [[4.0]]
    assert gone.cancelled()
    assert bench.runtime.rows == [1, 1]
    assert bench.batcher.num_running == 0


async def test_the_queue_is_bounded_and_refuses_at_once() -> None:
    bench, first = await busy(batching_max_waiting=2)
    others = [bench.start([1.0]), bench.start([2.0])]
    await bench.settle()

    with pytest.raises(Overloaded, match="model 'stepped' has 2 requests waiting, as many as it takes"):
        await bench.ask([3.0])

    await bench.finish()
    await asyncio.gather(first, *others)


async def test_a_request_whose_time_ran_out_is_answered_so_and_not_computed() -> None:
    bench, first = await busy()
    late, unlimited, early = bench.start([1.0], deadline=5.0), bench.start([2.0]), bench.start([3.0], deadline=50.0)
    await bench.settle()

    bench.now = 10.0
    await bench.finish()

    with pytest.raises(DeadlineExceeded, match="time ran out while it waited"):
        await late
    assert bench.runtime.executions[1].x.tolist() == [[2.0], [3.0]]
    await asyncio.gather(first, unlimited, early)


@pytest.mark.parametrize(("deadlines", "expected"), [((20.0, 30.0), 30.0), ((20.0, None), None)])
async def test_a_batch_has_as_much_time_as_any_of_its_requests(
    deadlines: tuple[float, float | None], expected: float | None
) -> None:
    bench, first = await busy()
    others = [bench.start([1.0], deadline=deadline) for deadline in deadlines]
    await bench.settle()

    await bench.finish()
    await asyncio.gather(first, *others)

    request = bench.runtime.executions[1].request
    assert request is not None
    assert request.deadline == expected


async def test_a_delay_waits_for_others_only_until_a_batch_is_full() -> None:
    bench = Bench(SteppedRuntime(is_free=True), batching_delay_us=10_000_000, batching_max_rows=2)
    one = bench.start([1.0])
    await bench.settle()
    assert bench.runtime.rows == []

    other = bench.start([2.0])
    await asyncio.gather(one, other)

    assert bench.runtime.rows == [2]
    await bench.batcher.close()


async def test_a_delay_ends_by_itself() -> None:
    bench = Bench(SteppedRuntime(is_free=True), batching_delay_us=1000)
    one = bench.start([1.0])
    await bench.settle()
    assert bench.runtime.rows == []

    bench.now = 1.0

    assert (await one)["y"].tolist() == [[2.0]]


async def test_batches_can_be_computed_side_by_side() -> None:
    bench = Bench(SteppedRuntime(), batching_concurrency=2)
    requests = [bench.start([float(n)]) for n in range(4)]
    await bench.settle()

    assert bench.runtime.rows == [1, 1]
    bench.runtime.waiting[0].go.set()
    await bench.settle()

    assert bench.runtime.rows == [1, 1, 2]
    await bench.finish()
    await asyncio.gather(*requests)


async def test_without_batching_requests_run_side_by_side_as_the_runtime_likes() -> None:
    bench = Bench(SteppedRuntime(), batching=False)
    requests = [bench.start([float(n)]) for n in range(4)]
    await bench.settle()

    assert bench.runtime.rows == [1, 1, 1, 1]
    assert not bench.batcher.is_joining
    await bench.finish()
    await asyncio.gather(*requests)


async def test_a_model_that_does_not_keep_to_rows_is_noticed_once_and_runs_alone() -> None:
    bench = Bench(SteppedRuntime(sums_up=True))
    first = bench.start([0.0])
    await bench.settle()
    others = [bench.start([float(n)]) for n in range(1, 6)]
    await bench.settle()

    with capture_logs() as events:
        await bench.finish()
        later = [bench.start([1.0]), bench.start([2.0])]
        answers = await asyncio.gather(*others, *later)

    assert [each["y"].tolist() for each in answers] == [[[2.0 * n]] for n in (1, 2, 3, 4, 5, 1, 2)]
    assert bench.runtime.rows == [1, 5, 1, 1, 1, 1, 1, 1, 1]
    [warning] = [event for event in events if event["event"] == "model_not_batchable"]
    assert (warning["model"], warning["rows"], warning["outputs"]["total"]) == ("stepped", 5, [1])
    assert not bench.batcher.is_joining
    await first


async def test_what_waits_behind_an_unbatchable_batch_is_answered() -> None:
    bench = Bench(SteppedRuntime(sums_up=True), batching_max_rows=2)
    requests = [bench.start([float(n)]) for n in range(7)]
    await bench.settle()

    await bench.finish()

    assert [(await each)["y"].tolist() for each in requests] == [[[2.0 * n]] for n in range(7)]


async def test_closing_refuses_what_waits_and_what_runs_together() -> None:
    bench, first = await busy()
    together = [bench.start([1.0]), bench.start([2.0])]
    await bench.settle()
    bench.runtime.waiting[0].go.set()
    await bench.settle()
    waiting = bench.start([3.0])
    await bench.settle()

    await bench.batcher.close()

    for each in (*together, waiting):
        with pytest.raises(ModelNotReady, match="model 'stepped' was unloaded while the request waited"):
            await each
    assert bench.batcher.num_waiting == 0
    await first


async def test_statistics_tell_requests_from_executions() -> None:
    bench, first = await busy()
    others = [bench.start([[1.0]] * 2), bench.start([2.0])]
    await bench.settle()
    await bench.finish()
    await asyncio.gather(first, *others)

    statistics = bench.statistics
    assert (statistics.inference_count, statistics.execution_count) == (4, 2)
    assert sorted(statistics.by_batch_size) == [1, 3]
    assert statistics.by_batch_size[3].compute_input.ns > 0
    assert statistics.by_batch_size[3].compute_infer.count == 1
    assert statistics.queue.count == 3
    assert statistics.queue.ns > 0
    assert statistics.fail == Duration(0, 0)


async def test_many_requests_at_once_come_back_to_those_who_asked() -> None:
    bench = Bench(SteppedRuntime(is_free=False))
    requests = [bench.start([[float(n)] * (1 + n % 3)] * (1 + n % 4)) for n in range(200)]
    await bench.settle()
    bench.runtime.is_free = True
    bench.runtime.waiting[0].go.set()

    await eventually(lambda: all(each.done() for each in requests))

    for n, each in enumerate(requests):
        np.testing.assert_array_equal((await each)["y"], np.full((1 + n % 4, 1 + n % 3), 2.0 * n))

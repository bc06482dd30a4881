"""Counters of one model, on a clock that the test turns."""

from __future__ import annotations

import asyncio

import pytest

from predictor.statistics import MAX_ANSWER_NUMBERS, Duration, ModelStatistics


class Clock:
    def __init__(self) -> None:
        self.ns = 1000

    def __call__(self) -> int:
        return self.ns


def test_a_request_s_phases_are_added_up() -> None:
    clock = Clock()
    statistics = ModelStatistics(clock, lambda: 77)

    for batch_size in (2, 2, 5):
        with statistics.request() as watch:
            watch.batch_size = batch_size
            clock.ns += 10
            watch.inputs_read()
            clock.ns += 3
            watch.dequeued()
            clock.ns += 200
            watch.inferred()
            clock.ns += 30
            watch.outputs_written()

    assert statistics.success == Duration(3, 729)
    assert statistics.fail == statistics.cancelled == Duration(0, 0)
    assert statistics.queue == Duration(3, 9)
    assert statistics.phases.compute_input == Duration(3, 30)
    assert statistics.phases.compute_infer == Duration(3, 600)
    assert statistics.phases.compute_output == Duration(3, 90)
    assert (statistics.inference_count, statistics.execution_count) == (9, 0)
    assert statistics.last_inference_ms == 77


def test_executions_are_counted_by_their_rows() -> None:
    statistics = ModelStatistics(Clock())

    statistics.executed(4, 100, join_ns=7, split_ns=3)
    statistics.executed(4, 100)
    statistics.executed(1, 50)

    assert statistics.execution_count == 3
    assert statistics.by_batch_size[4].compute_input == Duration(2, 7)
    assert statistics.by_batch_size[4].compute_infer == Duration(2, 200)
    assert statistics.by_batch_size[4].compute_output == Duration(2, 3)
    assert statistics.by_batch_size[1].compute_infer == Duration(1, 50)


@pytest.mark.parametrize(
    ("error", "outcome"),
    [(ZeroDivisionError, "fail"), (asyncio.CancelledError, "cancelled"), (GeneratorExit, "cancelled")],
)
def test_a_request_that_did_not_succeed_counts_as_nothing_else(error: type[BaseException], outcome: str) -> None:
    clock = Clock()
    statistics = ModelStatistics(clock, lambda: 77)

    with pytest.raises(error), statistics.request():
        clock.ns += 40
        raise error

    assert getattr(statistics, outcome) == Duration(1, 40)
    assert statistics.success.count + statistics.fail.count + statistics.cancelled.count == 1
    assert statistics.inference_count == statistics.queue.count == 0


def test_the_answers_of_a_long_stream_do_not_grow_the_statistics() -> None:
    statistics = ModelStatistics()

    for number in range(3 * MAX_ANSWER_NUMBERS):
        statistics.answer(number).success.add(1)

    assert len(statistics.by_answer) == MAX_ANSWER_NUMBERS
    assert statistics.by_answer[MAX_ANSWER_NUMBERS - 1].success.count == 2 * MAX_ANSWER_NUMBERS + 1

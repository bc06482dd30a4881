"""Counters of one model, on a clock that the test turns."""

from __future__ import annotations

import pytest

from predictor.statistics import Duration, ModelStatistics


class Clock:
    def __init__(self) -> None:
        self.ns = 1000

    def __call__(self) -> int:
        return self.ns


def test_a_request_s_phases_are_added_up_by_batch_size() -> None:
    clock = Clock()
    statistics = ModelStatistics(clock, lambda: 77)

    for batch_size in (2, 2, 5):
        with statistics.request() as watch:
            watch.batch_size = batch_size
            clock.ns += 10
            watch.inputs_read()
            clock.ns += 200
            watch.inferred()
            clock.ns += 30
            watch.outputs_written()

    assert statistics.success == Duration(3, 720)
    assert statistics.fail == Duration(0, 0)
    assert statistics.phases.compute_infer == Duration(3, 600)
    assert statistics.by_batch_size[2].compute_input == Duration(2, 20)
    assert statistics.by_batch_size[5].compute_output == Duration(1, 30)
    assert (statistics.inference_count, statistics.execution_count) == (9, 3)
    assert statistics.last_inference_ms == 77


def test_a_failed_request_counts_as_a_failure_only() -> None:
    clock = Clock()
    statistics = ModelStatistics(clock, lambda: 77)

    with pytest.raises(ZeroDivisionError), statistics.request():
        clock.ns += 40
        raise ZeroDivisionError

    assert statistics.fail == Duration(1, 40)
    assert statistics.success.count == statistics.inference_count == 0

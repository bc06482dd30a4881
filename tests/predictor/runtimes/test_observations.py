"""Histograms, and what one request adds to them: vLLM's meanings, checked by hand-made outputs."""

from __future__ import annotations

import pytest

from predictor.llm.outputs import GenerationOutput, Timings, Usage
from predictor.llm.sequence import FinishReason
from predictor.runtimes.observations import GenerationObservations, Histogram, RequestObserver
from tests.predictor.llm.engines import generation

ONE_TOKEN = Usage(5, 0, 1)


def output(index: int = 0, *, usage: Usage = ONE_TOKEN, **fields: object) -> GenerationOutput:
    return GenerationOutput("r", (1,), "", usage, index, **fields)  # type: ignore[arg-type]


def test_a_value_on_a_bound_belongs_below_it() -> None:
    histogram = Histogram([1, 2])

    for value in (0.5, 1, 1.5, 2, 3):
        histogram.observe(value)

    assert histogram.counts == [2, 2, 1]
    assert histogram.sum == 8


def test_the_first_token_counts_when_it_comes_and_each_gap_counts() -> None:
    seen = GenerationObservations()
    observer = RequestObserver(generation(), seen)

    observer.saw(output(first_token_s=0.5))
    observer.saw(output(gaps_s=(0.25, 0.125)))

    assert (sum(seen.first_token_s.counts), seen.first_token_s.sum) == (1, 0.5)
    assert (sum(seen.gap_s.counts), seen.gap_s.sum) == (2, 0.375)
    assert sum(seen.total_s.counts) == 0  # nothing has ended yet


def test_the_phases_of_an_output_add_up() -> None:
    seen = GenerationObservations()
    observer = RequestObserver(generation(max_tokens=8), seen)

    observer.saw(output(usage=Usage(5, 0, 3, 2), finish_reason=FinishReason.STOP, timings=Timings(0.25, 1.25, 3.25)))

    assert seen.queue_s.sum + seen.prefill_s.sum + seen.decode_s.sum == seen.total_s.sum == 3.25
    assert seen.inference_s.sum == seen.prefill_s.sum + seen.decode_s.sum == 3.0
    assert seen.output_token_s.sum == pytest.approx(2.0 / 2)  # two gaps between three tokens
    assert (seen.prompt_tokens.sum, seen.output_tokens.sum, seen.max_tokens.sum) == (5, 3, 8)
    assert seen.preemptions.sum == 2


def test_an_output_of_one_token_has_no_time_per_token() -> None:
    seen = GenerationObservations()

    RequestObserver(generation(), seen).saw(output(finish_reason=FinishReason.STOP, timings=Timings(0.0, 1.0, 1.0)))

    assert sum(seen.output_token_s.counts) == 0


def test_a_request_of_several_outputs_counts_once_with_its_longest() -> None:
    seen = GenerationObservations()
    observer = RequestObserver(generation(n=2), seen)

    observer.saw(output(0, usage=Usage(5, 0, 7), finish_reason=FinishReason.LENGTH, timings=Timings(0, 1, 2)))
    assert sum(seen.num_outputs.counts) == 0
    observer.saw(output(1, usage=Usage(5, 0, 3), finish_reason=FinishReason.STOP, timings=Timings(0, 1, 2)))

    assert (sum(seen.num_outputs.counts), seen.num_outputs.sum) == (1, 2)
    assert (sum(seen.longest_output_tokens.counts), seen.longest_output_tokens.sum) == (1, 7)
    assert sum(seen.total_s.counts) == 2

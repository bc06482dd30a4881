"""Figures against answers whose figures can be seen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.llm.answer import Answer, Usage
from bench.llm.figures import figures_of, moments, percentile_ms


def test_rates_are_of_whole_answers_between_first_request_and_last_answer() -> None:
    answers = [
        Answer(10.0, 12.0, (10.5, 11.0, 12.0), Usage(30, 6)),
        Answer(10.0, 14.0, (11.0, 14.0), Usage(30, 4)),
        Answer(10.0, 11.0, (10.25,), None, is_cancelled=True),
        Answer(10.0, 10.1, (), None, error="429: full"),
    ]

    figures = figures_of(answers)

    assert figures.output_tokens_per_s == pytest.approx((6 + 4) / 4)
    assert (figures.num_answers, figures.num_cancelled, figures.errors) == (2, 1, ("429: full",))
    assert figures.tokens_per_part == pytest.approx(10 / 5)
    assert figures.prompt_tokens == (30, 30)


def test_latencies_are_from_the_request_to_the_first_part_and_between_parts() -> None:
    answers = [
        Answer(10.0, 12.0, (10.5, 11.0, 12.0), Usage(30, 6)),
        Answer(20.0, 24.0, (21.0, 24.0), Usage(30, 4)),
        Answer(10.0, 11.0, (10.25,), None, is_cancelled=True),
    ]

    figures = figures_of(answers)

    assert figures.ttft_p50_ms == pytest.approx(500)
    assert figures.ttft_p99_ms == pytest.approx(1000)
    assert figures.itl_p50_ms == pytest.approx(1000)
    assert figures.itl_p99_ms == pytest.approx(3000)


def test_what_was_not_measured_is_none_and_not_zero() -> None:
    figures = figures_of([Answer(0.0, 1.0, (), None, error="refused")])

    assert (figures.ttft_p50_ms, figures.itl_p99_ms, figures.tokens_per_part, figures.prompt_tokens) == (None,) * 4


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=200), st.integers(1, 100))
def test_a_percentile_is_the_least_value_that_enough_values_do_not_exceed(values: list[float], percent: int) -> None:
    found = percentile_ms(values, percent)

    enough = [value for value in values if 100 * sum(other <= value for other in values) >= percent * len(values)]
    assert found == pytest.approx(1000 * min(enough))


def test_a_percentile_of_nothing_is_none() -> None:
    assert percentile_ms([], 50) is None


def test_parts_that_came_together_are_seen_once() -> None:
    assert moments([1.0, 1.0001, 1.0002, 1.5, 2.0, 2.0005]) == [1.0, 1.5, 2.0]
    assert moments([]) == []


def test_tokens_of_parts_that_came_together_count_for_one_moment() -> None:
    figures = figures_of([Answer(10.0, 12.0, (10.5, 10.5001, 11.5, 11.5001), Usage(30, 4))])

    assert (figures.tokens_per_part, figures.itl_p50_ms) == (2.0, pytest.approx(1000))

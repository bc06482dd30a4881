"""Histograms and gaps, on a clock that the test turns."""

from __future__ import annotations

import pytest

from predictor.runtimes.observations import GapWatch, Histogram


def test_a_value_on_a_bound_belongs_below_it() -> None:
    histogram = Histogram([1, 2])

    for value in (0.5, 1, 1.5, 2, 3):
        histogram.observe(value)

    assert histogram.counts == [2, 2, 1]
    assert histogram.sum == 8


def test_tokens_that_come_together_share_the_gap() -> None:
    now = [10.0]
    histogram = Histogram([0.1, 0.5, 1])
    gaps = GapWatch(histogram, lambda: now[0])

    gaps.saw(3)  # the first tokens have no gap before them
    now[0] += 0.8
    gaps.saw(2)
    now[0] += 0.05
    gaps.saw(1)
    gaps.saw(0)

    assert histogram.counts == [1, 2, 0, 0]
    assert histogram.sum == pytest.approx(0.85)

"""Histograms of what callers of a language model felt: waiting, first token, gaps, totals. Plain numbers.

The buckets are vLLM's, so that dashboards made for it work; the gaps have three finer ones below its first. Knows no
Prometheus: whoever exports reads the counts.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence

from predictor.llm.outputs import GenerationOutput

LATENCY_BUCKETS_S = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
FIRST_TOKEN_BUCKETS_S = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75),
    *(1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560),
)
GAP_BUCKETS_S = (
    *(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75),
    *(1, 2.5, 5, 7.5, 10, 20, 40, 80),
)
TOKEN_BUCKETS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000)


class Histogram:
    """counts[i]: observations of at most bounds[i] and more than the bound before; the last counts the rest."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float, times: int = 1) -> None:
        self.counts[bisect_left(self.bounds, value)] += times
        self.sum += value * times


class GenerationObservations:
    """All histograms of one model."""

    def __init__(self) -> None:
        self.first_token_s = Histogram(FIRST_TOKEN_BUCKETS_S)
        self.gap_s = Histogram(GAP_BUCKETS_S)
        self.total_s = Histogram(LATENCY_BUCKETS_S)
        self.queue_s = Histogram(LATENCY_BUCKETS_S)
        self.prompt_tokens = Histogram(TOKEN_BUCKETS)
        self.output_tokens = Histogram(TOKEN_BUCKETS)

    def finished(self, output: GenerationOutput) -> None:
        """The last output of a request."""
        self.prompt_tokens.observe(output.usage.num_prompt_tokens)
        self.output_tokens.observe(output.usage.num_output_tokens)
        if output.timings is not None:
            self.queue_s.observe(output.timings.queue_s)
            self.first_token_s.observe(output.timings.first_token_s)
            self.total_s.observe(output.timings.total_s)


class GapWatch:
    """Gaps between the tokens of one generation. Tokens that come together share the time since those before."""

    def __init__(self, histogram: Histogram, now: Callable[[], float] = time.monotonic) -> None:
        self._histogram = histogram
        self._now = now
        self._last: float | None = None

    def saw(self, num_tokens: int) -> None:
        """`num_tokens` new tokens have come now."""
        if num_tokens == 0:
            return
        now = self._now()
        if self._last is not None:
            self._histogram.observe((now - self._last) / num_tokens, num_tokens)
        self._last = now

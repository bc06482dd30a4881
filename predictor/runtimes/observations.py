"""Histograms of what callers of a language model felt: waiting, first token, gaps, totals. Plain numbers.

The times are the engine's own, so a slow reader does not show in them. Bounds and meanings are vLLM's, so that
dashboards made for it work; the gaps have three finer bounds below its first. Knows no Prometheus: whoever exports
reads the counts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

from predictor.llm.outputs import GenerationOutput, Timings, Usage
from predictor.llm.sequence import GenerationRequest

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
STEP_TOKEN_BUCKETS = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16_384)
OUTPUTS_BUCKETS = (1, 2, 5, 10, 20)
PREEMPTION_BUCKETS = (1, 2, 3, 4, 5, 10, 20)


class Histogram:
    """counts[i]: observations of at most bounds[i] and more than the bound before; the last counts the rest."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class GenerationObservations:
    """All histograms of one model. Those without another word have one entry for each output that ended.

    first_token_s, gap_s: an entry for each first token, and for each later one.
    step_tokens: an entry for each step of the engine.
    num_outputs, longest_output_tokens: an entry for each request, all of whose outputs ended.
    """

    def __init__(self) -> None:
        self.first_token_s = Histogram(FIRST_TOKEN_BUCKETS_S)
        self.gap_s = Histogram(GAP_BUCKETS_S)
        self.output_token_s = Histogram(GAP_BUCKETS_S)
        self.total_s = Histogram(LATENCY_BUCKETS_S)
        self.queue_s = Histogram(LATENCY_BUCKETS_S)
        self.inference_s = Histogram(LATENCY_BUCKETS_S)
        self.prefill_s = Histogram(LATENCY_BUCKETS_S)
        self.decode_s = Histogram(LATENCY_BUCKETS_S)
        self.step_tokens = Histogram(STEP_TOKEN_BUCKETS)
        self.prompt_tokens = Histogram(TOKEN_BUCKETS)
        self.output_tokens = Histogram(TOKEN_BUCKETS)
        self.longest_output_tokens = Histogram(TOKEN_BUCKETS)
        self.num_outputs = Histogram(OUTPUTS_BUCKETS)
        self.max_tokens = Histogram(TOKEN_BUCKETS)
        self.preemptions = Histogram(PREEMPTION_BUCKETS)

    def finished(self, usage: Usage, timings: Timings, max_tokens: int) -> None:
        """One output has ended."""
        self.total_s.observe(timings.total_s)
        self.queue_s.observe(timings.queue_s)
        self.inference_s.observe(timings.inference_s)
        self.prefill_s.observe(timings.prefill_s)
        self.decode_s.observe(timings.decode_s)
        if usage.num_output_tokens > 1:
            self.output_token_s.observe(timings.decode_s / (usage.num_output_tokens - 1))
        self.prompt_tokens.observe(usage.num_prompt_tokens)
        self.output_tokens.observe(usage.num_output_tokens)
        self.max_tokens.observe(max_tokens)
        self.preemptions.observe(usage.num_preemptions)


class RequestObserver:
    """Watches the outputs of one request as they come."""

    def __init__(self, request: GenerationRequest, observations: GenerationObservations) -> None:
        self._request = request
        self._observations = observations
        self._num_unfinished = request.n
        self._longest_output = 0

    def saw(self, output: GenerationOutput) -> None:
        seen = self._observations
        if output.first_token_s is not None:
            seen.first_token_s.observe(output.first_token_s)
        for gap_s in output.gaps_s:
            seen.gap_s.observe(gap_s)
        if output.finish_reason is None or output.timings is None:
            return
        seen.finished(output.usage, output.timings, self._request.max_tokens)
        self._longest_output = max(self._longest_output, output.usage.num_output_tokens)
        self._num_unfinished -= 1
        if self._num_unfinished == 0:
            seen.num_outputs.observe(self._request.n)
            seen.longest_output_tokens.observe(self._longest_output)

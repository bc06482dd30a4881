"""What a run comes to: how long requests took, and how much of their prompts was held where they went."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from bench.balancing.simulation import Outcome

# Share of the requests that only fill caches and queues; nothing of them is counted.
WARM_UP = 0.2


@dataclass(frozen=True, slots=True)
class Figures:
    """Seconds from arrival to the last token, and to the first. hit_rate: share of prompt tokens that were cached."""

    latency_mean_s: float
    latency_p50_s: float
    latency_p99_s: float
    first_token_p99_s: float
    hit_rate: float


def figures_of(outcomes: Sequence[Outcome]) -> Figures:
    """Of one run."""
    counted = [one for one in outcomes if one.prompt.number >= WARM_UP * len(outcomes)]
    latencies = sorted(one.ended_s - one.prompt.at_s for one in counted)
    first_tokens = sorted(one.first_token_s - one.prompt.at_s for one in counted)
    return Figures(
        latency_mean_s=statistics.fmean(latencies),
        latency_p50_s=_quantile(latencies, 0.5),
        latency_p99_s=_quantile(latencies, 0.99),
        first_token_p99_s=_quantile(first_tokens, 0.99),
        hit_rate=sum(one.cached_tokens for one in counted) / sum(one.prompt.num_tokens for one in counted),
    )


def _quantile(ascending: Sequence[float], share: float) -> float:
    return ascending[min(len(ascending) - 1, int(len(ascending) * share))]

"""From answers to figures: tokens per second, percentiles. Rates are of whole requests; medians are of rounds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from pydantic import BaseModel, ConfigDict

from bench.llm.answer import Answer

# Less than any contender needs for a token, and more than the load generator needs for a part.
TOGETHER_S = 0.001


class Figures(BaseModel):
    """One workload, run once. Milliseconds; NaN-free: None where nothing was measured.

    output_tokens_per_s: tokens of answers that came to their end, by the servers' own count, over the seconds between
    the first request and the last answer. ttft: from the request to the first part with text. itl: between two moments
    in which a reader saw new text; tokens_per_part: how many tokens were new then. prompt_tokens: least and most.
    """

    model_config = ConfigDict(frozen=True)

    num_answers: int
    num_cancelled: int
    errors: tuple[str, ...]
    prompt_tokens: tuple[int, int] | None
    output_tokens_per_s: float
    requests_per_s: float
    ttft_p50_ms: float | None
    ttft_p99_ms: float | None
    itl_p50_ms: float | None
    itl_p99_ms: float | None
    tokens_per_part: float | None


def figures_of(answers: Sequence[Answer]) -> Figures:
    """Of the answers of one workload, at least one. A cancelled one counts for latency, not for tokens per second."""
    took_s = max(answer.ended_at for answer in answers) - min(answer.started_at for answer in answers)
    good = [answer for answer in answers if answer.error is None]
    whole = [answer for answer in good if not answer.is_cancelled]
    usages = [answer.usage for answer in whole if answer.usage is not None]
    num_tokens = sum(usage.output_tokens for usage in usages)
    num_parts = sum(len(moments(answer.part_times)) for answer in whole)
    first = [answer.part_times[0] - answer.started_at for answer in good if answer.part_times]
    between = [later - earlier for answer in good for earlier, later in pairwise(moments(answer.part_times))]
    prompts = [usage.prompt_tokens for usage in usages]
    return Figures(
        num_answers=len(whole),
        num_cancelled=len(good) - len(whole),
        errors=tuple(answer.error for answer in answers if answer.error is not None),
        prompt_tokens=(min(prompts), max(prompts)) if prompts else None,
        output_tokens_per_s=num_tokens / took_s,
        requests_per_s=len(whole) / took_s,
        ttft_p50_ms=percentile_ms(first, 50),
        ttft_p99_ms=percentile_ms(first, 99),
        itl_p50_ms=percentile_ms(between, 50),
        itl_p99_ms=percentile_ms(between, 99),
        tokens_per_part=num_tokens / num_parts if num_parts else None,
    )


def moments(times: Sequence[float]) -> list[float]:
    """When a reader saw something new, for parts that came at `times`, ascending.

    Parts that lay in one packet are taken from it one after the other, within TOGETHER_S: a reader sees them at once.
    """
    seen: list[float] = []
    for i, time in enumerate(times):
        if i == 0 or time - times[i - 1] >= TOGETHER_S:
            seen.append(time)
    return seen


def percentile_ms(seconds: Sequence[float], percent: float) -> float | None:
    """In milliseconds, the least value that `percent` % of the values do not exceed (nearest rank); None of none."""
    if not seconds:
        return None
    rank = math.ceil(percent / 100 * len(seconds))
    return 1000 * sorted(seconds)[max(rank, 1) - 1]

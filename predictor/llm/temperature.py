"""What temperature and min-p make of the distances between logits, in plain floats: the samplers share it.

Knows no torch, so that an engine whose sampler is native needs none.
"""

from __future__ import annotations

import math

from predictor.llm.step import SamplingParams

# The largest finite float32, and the smallest normal one.
_MAX_FLOAT32, _MIN_FLOAT32 = 2.0**128 - 2.0**104, 2.0**-126


def inverse_temperature(params: SamplingParams) -> float:
    """What logits below the likeliest are multiplied by before they become weights, within float32."""
    return min(max(1.0 / params.temperature, _MIN_FLOAT32), _MAX_FLOAT32)


def min_p_threshold(params: SamplingParams) -> float:
    """How far below the likeliest logit a token may be for min-p to keep it."""
    return math.log(params.min_p) * params.temperature if params.min_p > 0 else -math.inf

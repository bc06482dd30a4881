"""Pooling over packed batches, beside a plain loop over texts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from predictor.encoder.batches import Encoding, batches_of
from predictor.encoder.pooling import POOLINGS, normalized, pooled

PLAIN: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "mean": lambda states: states.sum(0) / len(states),
    "cls": lambda states: states[0],
    "max": lambda states: states.max(0).values,
}


@pytest.mark.parametrize("mode", list(POOLINGS))
def test_pooled_texts_are_those_of_a_plain_loop(mode: str) -> None:
    lengths = [3, 1, 3, 5]
    zeros = [np.zeros(length, np.int64) for length in lengths]
    (batch,) = batches_of([Encoding(one, one) for one in zeros], max_tokens=100)
    hidden = torch.randn(12, 4, generator=torch.Generator().manual_seed(1))

    vectors = pooled(hidden.bfloat16(), batch, mode)

    parts = hidden.bfloat16().float().split(sorted(lengths))
    torch.testing.assert_close(vectors, torch.stack([PLAIN[mode](part) for part in parts]))
    assert vectors.dtype == torch.float32


def test_normalized_rows_have_length_one_and_zeros_stay() -> None:
    rows = normalized(torch.tensor([[3.0, 4.0], [0.0, 0.0]]))

    torch.testing.assert_close(rows, torch.tensor([[0.6, 0.8], [0.0, 0.0]]))

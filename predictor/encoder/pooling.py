"""One vector a text, out of the hidden states of its tokens: the modes of sentence-transformers' Pooling module."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from predictor.encoder.batches import Batch

# Mode → what is made of a run's hidden states, [n, L, H] → [n, H].
POOLINGS: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda hidden: hidden.mean(dim=1),
    "cls": lambda hidden: hidden[:, 0],
    "max": lambda hidden: hidden.amax(dim=1),
}


def pooled(hidden: Tensor, batch: Batch, mode: str) -> Tensor:
    """hidden: [T, H] of the whole batch → float32 [texts of the batch, H], in the batch's order."""
    pool = POOLINGS[mode]
    parts = []
    for run in batch.runs:
        of_run = hidden[run.start : run.start + run.num_tokens].view(run.num_texts, run.length, -1)
        parts.append(pool(of_run.float()))
    return torch.cat(parts)


def normalized(vectors: Tensor) -> Tensor:
    """Each row divided by its Euclidean length; a row of zeros stays one."""
    return F.normalize(vectors, dim=-1)

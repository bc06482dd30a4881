"""Which texts are computed together: sorted by length, up to a number of tokens, and packed without padding.

Tokens of all texts of a batch lie side by side, so that a short text costs nothing of its long neighbour; texts of
equal length lie together, so that one call computes their attention. Idea: "unpadding" of NVIDIA's Effective
Transformer and of ModernBERT (Warner et al., 2024), without its kernels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Encoding:
    """One input, a text or a pair, as tokens. ids, type_ids: int64 [num_tokens]; num_tokens is at least 1."""

    ids: NDArray[np.int64]
    type_ids: NDArray[np.int64]

    @property
    def num_tokens(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Run:
    """`num_texts` neighbours of `length` tokens each; their tokens begin at `start` of the batch."""

    start: int
    num_texts: int
    length: int

    @property
    def num_tokens(self) -> int:
        return self.num_texts * self.length


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Texts side by side. indices: which of all encodings they are. ids, type_ids, positions: int64 [num_tokens]."""

    indices: tuple[int, ...]
    ids: NDArray[np.int64]
    type_ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    runs: tuple[Run, ...]


def batches_of(encodings: Sequence[Encoding], max_tokens: int) -> Iterator[Batch]:
    """All encodings, each in one batch, the shortest first; a batch has at most `max_tokens`, or one text alone."""
    indices: list[int] = []
    num_tokens = 0
    for index in sorted(range(len(encodings)), key=lambda index: encodings[index].num_tokens):
        length = encodings[index].num_tokens
        if indices and num_tokens + length > max_tokens:
            yield _packed(encodings, indices)
            indices, num_tokens = [], 0
        indices.append(index)
        num_tokens += length
    if indices:
        yield _packed(encodings, indices)


def _packed(encodings: Sequence[Encoding], indices: Sequence[int]) -> Batch:
    """indices: in the order of their lengths."""
    chosen = [encodings[index] for index in indices]
    return Batch(
        indices=tuple(indices),
        ids=np.concatenate([one.ids for one in chosen]),
        type_ids=np.concatenate([one.type_ids for one in chosen]),
        positions=np.concatenate([np.arange(one.num_tokens) for one in chosen]),
        runs=tuple(_runs([one.num_tokens for one in chosen])),
    )


def _runs(lengths: Sequence[int]) -> Iterator[Run]:
    start = num_texts = 0
    for position, length in enumerate(lengths):
        num_texts += 1
        if position + 1 == len(lengths) or lengths[position + 1] != length:
            yield Run(start, num_texts, length)
            start, num_texts = start + num_texts * length, 0

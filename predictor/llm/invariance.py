"""Finds out whether a backend gives a token the same bits in any step, by trying it on this very machine.

Kernels choose the order of their sums by shape and by CPU; where they do so by a row's company, no seed makes an answer
the same twice. What to do about it is `worker.build_engine`'s business. The property is batch invariance (He et al.,
"Defeating Nondeterminism in LLM Inference", 2025). Knows no torch.
"""

from __future__ import annotations

from itertools import pairwise

from predictor.llm.backend import Backend
from predictor.llm.step import Chunk, StepPlan, TokenLogprobs

# Crosses a tile of 32 and of 64 rows, and ends inside of one.
_NUM_TOKENS = 70
# Where the prompt is cut: one row, small numbers of rows, a large one, then token by token; and the position from which
# on there are no neighbours.
_CUTS = (0, 1, 3, 6, 39, 67, 68, 69, 70)
_ALONE_FROM = 68
# No special tokens among them: a model may have few, or odd ones.
_NUM_TOKEN_IDS = 250


def is_batch_invariant(backend: Backend, num_blocks: int, block_size: int, vocab_size: int) -> bool:
    """Whether the log-probabilities of a prompt have the same bits whole and alone as in pieces and in company.

    Runs about ten small steps on the cache that `backend` has allocated, which nobody may be using. A cache without
    room for it is not tried, and counts as invariant.
    """
    blocks_each = -(-_NUM_TOKENS // block_size)
    if num_blocks < 3 * blocks_each:
        return True
    table, second_table, third_table = (tuple(range(i * blocks_each, (i + 1) * blocks_each)) for i in range(3))
    prompt = tuple(i * 7919 % min(vocab_size, _NUM_TOKEN_IDS) for i in range(_NUM_TOKENS + 1))
    whole = _run(backend, [_chunk(0, prompt, 0, _NUM_TOKENS, table)])[0]
    pieces: list[TokenLogprobs] = []
    for start, end in pairwise(_CUTS):
        neighbours = [_chunk(1, prompt, start, end, second_table), _chunk(2, prompt[::-1], 0, end, third_table)]
        piece = _chunk(0, prompt, start, end, table)
        pieces += _run(backend, [piece, *neighbours] if start < _ALONE_FROM else [piece])[0]
    return pieces == list(whole)


def _chunk(sequence_id: int, prompt: tuple[int, ...], start: int, end: int, table: tuple[int, ...]) -> Chunk:
    return Chunk(sequence_id, prompt[start:end], start, table, score_targets=prompt[start + 1 : end + 1])


def _run(backend: Backend, chunks: list[Chunk]) -> list[tuple[TokenLogprobs, ...]]:
    return [result.scores for result in backend.execute(StepPlan(0, tuple(chunks)))]

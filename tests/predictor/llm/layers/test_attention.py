"""Paged attention against dense attention, whatever the block tables, the mix of chunks and the neighbours."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from predictor.llm.layers.attention import (
    QUERY_TILE,
    KVCache,
    Span,
    padded_blocks,
    paged_attention,
    plan_attention,
    span_order,
)

CPU = torch.device("cpu")
NUM_HEADS, NUM_KV_HEADS, HEAD_DIM = 6, 2, 8


@dataclass(frozen=True)
class Tokens:
    """Queries, and keys with values, of all tokens of one sequence."""

    q: Tensor
    kv: Tensor

    @classmethod
    def random(cls, num_tokens: int, seed: int, num_heads: int = NUM_HEADS, num_kv_heads: int = NUM_KV_HEADS) -> Tokens:
        generator = torch.Generator().manual_seed(seed)
        return cls(
            torch.randn(num_tokens, num_heads, HEAD_DIM, generator=generator),
            torch.randn(num_tokens, 2 * num_kv_heads, HEAD_DIM, generator=generator),
        )


def dense_attention(tokens: Tokens, start: int, end: int) -> Tensor:
    """What queries start … end - 1 see, in plain formulas; [end - start, H * D], float64."""
    keys, values = tokens.kv[:end].double().repeat_interleave(NUM_HEADS // NUM_KV_HEADS, dim=1).chunk(2, dim=1)
    scores = torch.einsum("qhd,khd->hqk", tokens.q[start:end].double(), keys) / HEAD_DIM**0.5
    later = torch.arange(end) > torch.arange(start, end).unsqueeze(1)
    weights = scores.masked_fill(later, -torch.inf).softmax(dim=-1)
    return torch.einsum("hqk,khd->qhd", weights, values).reshape(end - start, -1)


def make_cache(num_blocks: int, block_size: int, num_kv_heads: int = NUM_KV_HEADS) -> KVCache:
    cache = KVCache(1, num_blocks, block_size, num_kv_heads, HEAD_DIM, torch.float32, CPU)
    cache.layers[0].normal_(std=100, generator=torch.Generator().manual_seed(1))  # what earlier owners left
    return cache


def run(cache: KVCache, sequences: Sequence[Tokens], spans: Sequence[Span]) -> list[Tensor]:
    """One step; outputs by sequence. Spans are given in any order."""
    order = sorted(range(len(spans)), key=lambda i: span_order(spans[i], cache.block_size))
    metadata = plan_attention([spans[i] for i in order], cache.block_size, torch.float32, CPU)
    rows = {i: slice(spans[i].start_position, spans[i].start_position + spans[i].num_tokens) for i in order}
    q = torch.cat([sequences[i].q[rows[i]] for i in order])
    kv = torch.cat([sequences[i].kv[rows[i]] for i in order])
    outputs = paged_attention(q, kv, cache.layers[0], metadata).split([spans[i].num_tokens for i in order])
    return [outputs[order.index(i)] for i in range(len(spans))]


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 200), min_size=1, max_size=5),
    block_size=st.sampled_from([1, 4, 16]),
    seed=st.integers(0, 1 << 30),
)
def test_mixed_chunks_equal_dense_attention(lengths: list[int], block_size: int, seed: int) -> None:
    rng = random.Random(seed)
    sequences = [Tokens.random(length, seed + i) for i, length in enumerate(lengths)]
    blocks_needed = [-(-length // block_size) for length in lengths]
    free = list(range(sum(blocks_needed) + 3))
    rng.shuffle(free)
    tables = [tuple(free.pop() for _ in range(n)) for n in blocks_needed]
    cache = make_cache(sum(blocks_needed) + 3, block_size)
    done = [0] * len(lengths)

    while any(start < length for start, length in zip(done, lengths, strict=True)):
        active = [i for i, length in enumerate(lengths) if done[i] < length and rng.random() < 0.8]
        sizes = [rng.choice([1, rng.randint(1, lengths[i] - done[i])]) for i in active]
        spans = [Span(done[i], size, tables[i]) for i, size in zip(active, sizes, strict=True)]
        outputs = run(cache, [sequences[i] for i in active], spans) if active else []
        for i, size, output in zip(active, sizes, outputs, strict=True):
            expected = dense_attention(sequences[i], done[i], done[i] + size)
            torch.testing.assert_close(output.double(), expected, atol=1e-5, rtol=1e-5)
            done[i] += size


def test_only_the_slots_of_the_step_are_written() -> None:
    cache = make_cache(8, 4)
    before = cache.layers[0].clone()

    run(cache, [Tokens.random(7, 0)], [Span(5, 2, (6, 2))])

    changed = (cache.layers[0] != before).flatten(2).any(dim=2).nonzero().tolist()
    assert changed == [[2, 1], [2, 2]]


def test_block_tables_do_not_show_in_the_result() -> None:
    tokens = Tokens.random(100, 1)

    results = [
        run(make_cache(40, 16), [tokens], [Span(0, 100, table)]) for table in (range(7), (30, 2, 39, 5, 8, 1, 0))
    ]

    assert torch.equal(results[0][0], results[1][0])


@pytest.mark.parametrize("length", [1, 40, 129, 300])
def test_neighbours_do_not_show_in_the_result(length: int) -> None:
    lengths = [length, 3, 90, 290, 301, length]
    sequences = [Tokens.random(n, i) for i, n in enumerate(lengths)]
    spans = [Span(n - 1, 1, range(20 * i, 20 * i + 20)) for i, n in enumerate(lengths)]

    together = run(make_cache(120, 16), sequences, spans)[0]
    alone = run(make_cache(120, 16), sequences[:1], spans[:1])[0]

    assert torch.equal(together, alone)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 700), st.lists(st.integers(1, 699), max_size=6), st.sampled_from([(6, 2), (2, 2), (4, 2)]))
def test_cuts_do_not_show_in_the_result(length: int, cuts: list[int], heads: tuple[int, int]) -> None:
    tokens = Tokens.random(length, 1, *heads)
    (whole,) = run(make_cache(44, 16, heads[1]), [tokens], [Span(0, length, range(44))])
    cache = make_cache(44, 16, heads[1])
    bounds = sorted({0, length, *(cut for cut in cuts if cut < length)})

    parts = [run(cache, [tokens], [Span(start, end - start, range(44))])[0] for start, end in pairwise(bounds)]

    assert torch.equal(torch.cat(parts), whole)


@given(st.integers(0, 20_000), st.sampled_from([1, 8, 16, 32, 48, 128]))
def test_padding_is_bounded_and_the_same_within_a_tile(position: int, block_size: int) -> None:
    padded_tokens = padded_blocks(position, block_size) * block_size

    assert position < padded_tokens <= (position + 1) * 1.25 + QUERY_TILE + block_size
    assert padded_blocks(position - position % QUERY_TILE, block_size) * block_size == padded_tokens

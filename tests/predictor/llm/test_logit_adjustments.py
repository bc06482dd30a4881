"""Adjusted logits against a slow, obvious reference; bans and guides; and rows that nothing changes."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from predictor.llm.logit_adjustments import adjust
from predictor.llm.step import Draw, SamplingParams

VOCAB_SIZE = 21
TOKENS = st.lists(st.integers(0, VOCAB_SIZE - 1), max_size=12).map(tuple)


def random_row(seed: int) -> Tensor:
    return torch.randn(VOCAB_SIZE, generator=torch.Generator().manual_seed(seed)) * 3


def bitmap(token_ids: set[int]) -> bytes:
    """As a guide gives it: bit i % 8 of byte i // 8."""
    octets = bytearray(-(-VOCAB_SIZE // 8))
    for token_id in token_ids:
        octets[token_id // 8] |= 1 << token_id % 8
    return bytes(octets)


def reference(logits: list[float], draw: Draw) -> list[float]:
    """The formulas of vLLM's documentation, one token at a time."""
    params, row = draw.params, list(logits)
    biases = dict(params.logit_bias)
    for token_id in range(len(row)):
        value = row[token_id] + biases.get(token_id, 0.0)
        if token_id in draw.prompt_token_ids or token_id in draw.output_token_ids:
            value = value / params.repetition_penalty if value > 0 else value * params.repetition_penalty
        count = draw.output_token_ids.count(token_id)
        value -= count * params.frequency_penalty + (count > 0) * params.presence_penalty
        row[token_id] = value
    return row


@settings(max_examples=300, deadline=None)
@given(
    seed=st.integers(0, 1000),
    prompt=TOKENS,
    output=TOKENS,
    repetition=st.sampled_from([1.0, 1.3, 0.5]),
    frequency=st.sampled_from([0.0, 0.7, -2.0]),
    presence=st.sampled_from([0.0, 1.5, -0.3]),
    bias=st.dictionaries(st.integers(0, VOCAB_SIZE - 1), st.floats(-100, 100), max_size=5),
)
def test_bias_and_penalties_are_those_of_the_reference(
    seed: int,
    prompt: tuple[int, ...],
    output: tuple[int, ...],
    repetition: float,
    frequency: float,
    presence: float,
    bias: dict[int, float],
) -> None:
    logits = random_row(seed)
    params = SamplingParams(
        repetition_penalty=repetition,
        frequency_penalty=frequency,
        presence_penalty=presence,
        logit_bias=tuple(bias.items()),
    )
    draw = Draw(params, prompt, output)
    before = logits.clone()

    adjusted = adjust(logits, draw)

    assert adjusted.tolist() == pytest.approx(reference(before.tolist(), draw), abs=1e-4)
    assert torch.equal(logits, before), "the model's own logits are still wanted: log-probabilities come from them"


def test_a_row_that_nothing_changes_is_not_copied() -> None:
    logits = random_row(0)

    assert adjust(logits, Draw(SamplingParams(top_p=0.5))) is logits


@given(allowed=st.sets(st.integers(0, VOCAB_SIZE - 1), min_size=1), banned=st.sets(st.integers(0, VOCAB_SIZE - 1)))
def test_what_is_left_is_what_is_allowed_and_not_banned(allowed: set[int], banned: set[int]) -> None:
    logits = random_row(1)

    adjusted = adjust(logits, Draw(SamplingParams(), banned=tuple(banned), allowed=bitmap(allowed)))

    # When all that a guide allows is banned, the guide wins.
    expected = allowed - banned or allowed
    assert {i for i, value in enumerate(adjusted.tolist()) if value != -math.inf} == expected
    assert all(adjusted[i] == logits[i] for i in expected)


@pytest.mark.parametrize("byte", [0, 1, 255])
def test_an_empty_bitmap_allows_nothing(byte: int) -> None:
    left_behind = [np.full(VOCAB_SIZE, byte, np.uint8) for _ in range(100)]  # what a careless allocation would find
    del left_behind

    assert adjust(random_row(2), Draw(SamplingParams(), allowed=b"")).isneginf().all()


def test_tokens_beyond_the_bitmap_are_not_allowed() -> None:
    adjusted = adjust(random_row(2), Draw(SamplingParams(), allowed=b"\xff"))

    assert adjusted.isfinite().tolist() == [True] * 8 + [False] * 13


def test_banning_everything_bans_nothing() -> None:
    logits = random_row(3)

    assert adjust(logits, Draw(SamplingParams(), banned=tuple(range(VOCAB_SIZE)))).tolist() == logits.tolist()

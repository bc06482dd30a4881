"""Rotary embedding against transformers and against what defines it."""

from __future__ import annotations

import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from predictor.llm.layers.rotary import RotaryEmbedding, rotate
from predictor.llm.models.config import ModelConfig

CPU = torch.device("cpu")


def config(**changes: object) -> ModelConfig:
    values = {"head_dim": 16, "rope_theta": 100_000.0} | changes
    return ModelConfig("llama", 1, 64, 96, 4, 2, vocab_size=10, max_context_tokens=8192, rms_norm_eps=1e-5, **values)  # type: ignore[arg-type]


def test_equals_transformers() -> None:
    positions = torch.tensor([0, 1, 2, 77, 8191])
    x = torch.randn(5, 4, 16)
    reference = LlamaRotaryEmbedding(
        LlamaConfig(hidden_size=64, num_attention_heads=4, rope_parameters={"rope_type": "default", "rope_theta": 1e5})
    )
    cos, sin = reference(x, positions.unsqueeze(0))
    expected, _ = apply_rotary_pos_emb(x.transpose(0, 1).unsqueeze(0), x.transpose(0, 1).unsqueeze(0), cos, sin)

    rotated = rotate(x, RotaryEmbedding(config(), torch.float32, CPU).rotation(positions))

    torch.testing.assert_close(rotated, expected[0].transpose(0, 1), atol=1e-6, rtol=1e-6)


def test_scores_depend_on_distance_alone() -> None:
    q, k = torch.randn(1, 1, 16), torch.randn(1, 1, 16)
    rotary = RotaryEmbedding(config(), torch.float32, CPU)

    def turned_score(q_position: int, k_position: int) -> float:
        rotated_q = rotate(q, rotary.rotation(torch.tensor([q_position])))
        rotated_k = rotate(k, rotary.rotation(torch.tensor([k_position])))
        return float((rotated_q * rotated_k).sum())

    assert abs(turned_score(30, 25) - turned_score(105, 100)) < 1e-4


def test_frequency_factors_slow_the_rotation() -> None:
    x = torch.randn(1, 1, 16)
    slowed = RotaryEmbedding(config(rope_frequency_factors=(4.0,) * 8), torch.float32, CPU)
    plain = RotaryEmbedding(config(), torch.float32, CPU)

    assert torch.equal(rotate(x, slowed.rotation(torch.tensor([40]))), rotate(x, plain.rotation(torch.tensor([10]))))

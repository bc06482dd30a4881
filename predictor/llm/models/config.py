"""The numbers that define a decoder-only model, in the words of `transformers`, whatever file they came from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Checked when read: all counts are positive, num_heads is a multiple of num_kv_heads, head_dim is even.

    rope_frequency_factors: one divisor per rotary frequency (Llama 3.1 stretches its context so); empty for none.
    """

    architecture: str
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_context_tokens: int
    rms_norm_eps: float
    rope_theta: float
    rope_frequency_factors: tuple[float, ...] = ()

"""The numbers that define a decoder-only model, in the words of `transformers`, whatever file they came from."""

from __future__ import annotations

from dataclasses import dataclass

from mesh.errors import CorruptArtifact

# No model is near it, and sums of sizes below it stay far from what a machine word holds.
MAX_DIMENSION = 1 << 24


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


def check_config(config: ModelConfig, file_name: str) -> None:
    """CorruptArtifact, in the name of the file that says so, when the numbers do not fit together."""
    if config.num_heads % config.num_kv_heads:
        raise CorruptArtifact(
            f"{file_name}: {config.num_heads} attention heads are no multiple of {config.num_kv_heads} KV heads"
        )
    if config.head_dim % 2:
        raise CorruptArtifact(f"{file_name}: head dimension {config.head_dim} is odd; rotary embedding needs pairs")
    if config.rope_theta <= 0 or config.rms_norm_eps < 0:
        raise CorruptArtifact(
            f"{file_name}: rope base {config.rope_theta} must be positive and "
            f"norm epsilon {config.rms_norm_eps} not negative"
        )

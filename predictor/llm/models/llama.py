"""Llama (Touvron et al., 2023) and what shares its shape: SmolLM2, Mistral; with biases on q, k, v also Qwen2.

Pre-norm decoder, rotary positions, grouped-query attention, SwiGLU. Knows nothing of files, requests or schedulers:
weights come from a `Checkpoint`, the batch is flat, and keys and values live in a paged cache.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from predictor.llm.layers.attention import AttentionMetadata, KVCache, paged_attention
from predictor.llm.layers.linear import Linear, make_linear
from predictor.llm.layers.rms_norm import RMSNorm
from predictor.llm.layers.rotary import RotaryEmbedding, Rotation, rotate
from predictor.llm.models.config import ModelConfig
from predictor.llm.weights.checkpoint import Checkpoint

# Letters: N tokens in the step, H query heads, K KV heads, D head_dim.


class LlamaModel:
    """See `LanguageModel` for the contract of `forward` and `logits`."""

    has_qkv_bias: ClassVar[bool] = False

    def __init__(self, config: ModelConfig, checkpoint: Checkpoint, dtype: torch.dtype, device: torch.device) -> None:
        self.config = config
        hidden, vocab = config.hidden_size, config.vocab_size
        embedding = _take(checkpoint, "model.embed_tokens.weight", (vocab, hidden))
        self._embedding = embedding.to(device, dtype)
        # Without an output matrix of its own, a model reads its embedding backwards ("tied").
        tied = not checkpoint.has("lm_head.weight")
        output = embedding if tied else _take(checkpoint, "lm_head.weight", (vocab, hidden))
        self._lm_head = make_linear(output, None, dtype, device)
        self._rotary = RotaryEmbedding(config, dtype, device)
        self._layers = [
            LlamaLayer(config, checkpoint, f"model.layers.{i}", self.has_qkv_bias, dtype, device)
            for i in range(config.num_layers)
        ]
        norm = _take(checkpoint, "model.norm.weight", (hidden,))
        self._norm = RMSNorm(norm, config.rms_norm_eps, dtype, device)

    def forward(self, token_ids: Tensor, positions: Tensor, kv_cache: KVCache, metadata: AttentionMetadata) -> Tensor:
        rotation = self._rotary.rotation(positions)
        hidden = F.embedding(token_ids, self._embedding)  # [N, hidden_size]
        for layer, layer_cache in zip(self._layers, kv_cache.layers, strict=True):
            hidden = layer(hidden, rotation, layer_cache, metadata)
        return self._norm(hidden)

    def logits(self, hidden: Tensor) -> Tensor:
        return self._lm_head(hidden).float()


class LlamaLayer:
    """One decoder layer. q, k and v, and gate and up, are one matrix each: fewer and larger multiplications."""

    def __init__(
        self,
        config: ModelConfig,
        checkpoint: Checkpoint,
        prefix: str,
        has_qkv_bias: bool,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        hidden, inner, head_dim = config.hidden_size, config.intermediate_size, config.head_dim
        self._num_heads, self._num_kv_heads, self._head_dim = config.num_heads, config.num_kv_heads, head_dim

        def norm(name: str) -> RMSNorm:
            weight = _take(checkpoint, f"{prefix}.{name}.weight", (hidden,))
            return RMSNorm(weight, config.rms_norm_eps, dtype, device)

        def joined(outputs: dict[str, int], inputs: int, has_bias: bool = False) -> Linear:
            weights = [_take(checkpoint, f"{prefix}.{name}.weight", (n, inputs)) for name, n in outputs.items()]
            biases = [_take(checkpoint, f"{prefix}.{name}.bias", (n,)) for name, n in outputs.items() if has_bias]
            return make_linear(torch.cat(weights), torch.cat(biases) if has_bias else None, dtype, device)

        q_size, kv_size = config.num_heads * head_dim, config.num_kv_heads * head_dim
        self._input_norm = norm("input_layernorm")
        self._qkv = joined(
            {"self_attn.q_proj": q_size, "self_attn.k_proj": kv_size, "self_attn.v_proj": kv_size},
            hidden,
            has_qkv_bias,
        )
        self._o = joined({"self_attn.o_proj": hidden}, q_size)
        self._post_norm = norm("post_attention_layernorm")
        self._gate_up = joined({"mlp.gate_proj": inner, "mlp.up_proj": inner}, hidden)
        self._down = joined({"mlp.down_proj": hidden}, inner)

    def __call__(self, hidden: Tensor, rotation: Rotation, layer_cache: Tensor, metadata: AttentionMetadata) -> Tensor:
        """[N, hidden_size] → [N, hidden_size]; writes the keys and values of the N tokens to the cache."""
        hidden = hidden + self._attend(self._input_norm(hidden), rotation, layer_cache, metadata)
        gate, up = self._gate_up(self._post_norm(hidden)).chunk(2, dim=-1)
        return hidden + self._down(F.silu(gate) * up)

    def _attend(self, x: Tensor, rotation: Rotation, layer_cache: Tensor, metadata: AttentionMetadata) -> Tensor:
        qkv = self._qkv(x).view(x.shape[0], -1, self._head_dim)  # [N, H + 2K, D]
        num_rotated = self._num_heads + self._num_kv_heads
        # Rotated in place, so that k and v stay side by side, as the cache wants them.
        qkv[:, :num_rotated] = rotate(qkv[:, :num_rotated], rotation)
        q, kv = qkv[:, : self._num_heads], qkv[:, self._num_heads :]  # [N, H, D], [N, 2K, D]
        return self._o(paged_attention(q, kv, layer_cache, metadata))


def _take(checkpoint: Checkpoint, name: str, shape: tuple[int, ...]) -> Tensor:
    return torch.from_numpy(checkpoint.take(name, shape))

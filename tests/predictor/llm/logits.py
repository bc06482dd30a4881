"""What a loaded model says after every token of one sequence, in one step and without an engine."""

from __future__ import annotations

import torch

from predictor.llm.layers.attention import KVCache, Span, plan_attention
from predictor.llm.loader import LoadedModel

BLOCK_SIZE = 16


@torch.inference_mode()
def all_logits(loaded: LoadedModel, token_ids: list[int]) -> torch.Tensor:
    """Logits after every token of one sequence, float32 [tokens, vocab]."""
    config, num_blocks = loaded.config, -(-len(token_ids) // BLOCK_SIZE)
    cache = KVCache(
        config.num_layers,
        num_blocks,
        BLOCK_SIZE,
        config.num_kv_heads,
        config.head_dim,
        loaded.dtype,
        loaded.device,
    )
    spans = [Span(0, len(token_ids), range(num_blocks))]
    metadata = plan_attention(spans, BLOCK_SIZE, loaded.dtype, loaded.device)
    hidden = loaded.model.forward(torch.tensor(token_ids), torch.arange(len(token_ids)), cache, metadata)
    return loaded.model.logits(hidden)

"""The reference backend: executes step plans with PyTorch, on the CPU or a CUDA device.

Turns a plan into one flat batch, runs the model once, and reads the logits of the rows that need them. Knows no
scheduler and no text. A sequence's results do not depend on the rest of its step: see `layers.attention` and `sampler`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from predictor.llm import sampler
from predictor.llm.layers.attention import AttentionMetadata, KVCache, Span, plan_attention, span_order
from predictor.llm.loader import LoadedModel
from predictor.llm.readout import read_results
from predictor.llm.step import Chunk, ChunkResult, Draw, SamplingParams, StepPlan

_WARM_UP_BLOCK_SIZE = 16


class TorchBackend:
    """Implements `Backend`. Not thread-safe: one engine loop calls it."""

    def __init__(self, loaded: LoadedModel) -> None:
        self._model = loaded.model
        self._config = loaded.config
        self._dtype = loaded.dtype
        self._device = loaded.device
        # A model may have more logits than there are tokens: such a row means nothing, and is never chosen.
        self._num_tokens = loaded.tokenizer.vocab_size
        self._kv_cache: KVCache | None = None

    def block_bytes(self, block_size: int) -> int:
        config = self._config
        token_bytes = config.num_layers * 2 * config.num_kv_heads * config.head_dim * self._dtype.itemsize
        return token_bytes * block_size

    def allocate(self, num_blocks: int, block_size: int) -> None:
        try:
            self._kv_cache = self._make_cache(num_blocks, block_size)
        except (MemoryError, RuntimeError) as error:  # numpy's and torch's answers when an allocation fails
            size_bytes = num_blocks * self.block_bytes(block_size)
            raise MemoryError(f"{num_blocks} KV blocks take {size_bytes} bytes, which cannot be had") from error

    def warm_up(self) -> None:
        """Runs a prompt, then decodes of one and of several sequences, in a small cache of their own."""
        cache = self._make_cache(4, _WARM_UP_BLOCK_SIZE)
        draws = (Draw(SamplingParams(temperature=1.0, top_p=0.9, num_logprobs=1)),)
        prompt = Chunk(0, (0,) * 32, 0, (0, 1, 2), draws=draws, score_targets=(0,) * 32)
        decodes = tuple(Chunk(i, (0,), 32, (0, 1, 2), draws=draws) for i in range(4))
        for chunks in ((prompt,), decodes[:1], decodes, (*decodes, prompt)):
            self._execute(StepPlan(0, chunks), cache)

    def execute(self, plan: StepPlan) -> list[ChunkResult]:
        if self._kv_cache is None:
            raise RuntimeError("execute() before allocate(), or after close()")
        return self._execute(plan, self._kv_cache)

    def close(self) -> None:
        self._kv_cache = None

    def _make_cache(self, num_blocks: int, block_size: int) -> KVCache:
        config = self._config
        return KVCache(
            config.num_layers,
            num_blocks,
            block_size,
            config.num_kv_heads,
            config.head_dim,
            self._dtype,
            self._device,
        )

    @torch.inference_mode()
    def _execute(self, plan: StepPlan, cache: KVCache) -> list[ChunkResult]:
        if not plan.chunks:
            return []
        batch = _flatten(plan.chunks, cache.block_size, self._dtype, self._device)
        hidden = self._model.forward(batch.token_ids, batch.positions, cache, batch.metadata)

        def logits_of(rows: Sequence[int]) -> Tensor:
            return self._model.logits(hidden[torch.tensor(rows, device=self._device)])[:, : self._num_tokens]

        return read_results(plan.chunks, batch.first_rows, logits_of, sampler)


@dataclass(frozen=True, slots=True)
class FlatBatch:
    """A step as tensors. Chunks stand in an order that suits attention; first_rows says where each one starts.

    token_ids, positions: int64 [num_tokens]. first_rows: in the order of the plan.
    """

    token_ids: Tensor
    positions: Tensor
    metadata: AttentionMetadata
    first_rows: list[int]


def _flatten(chunks: Sequence[Chunk], block_size: int, dtype: torch.dtype, device: torch.device) -> FlatBatch:
    spans = [Span(chunk.start_position, len(chunk.token_ids), chunk.block_table) for chunk in chunks]
    order = sorted(range(len(chunks)), key=lambda i: span_order(spans[i], block_size))
    token_ids: list[int] = []
    positions: list[int] = []
    first_rows = [0] * len(chunks)
    for i in order:
        first_rows[i] = len(token_ids)
        token_ids.extend(chunks[i].token_ids)
        positions.extend(range(chunks[i].start_position, chunks[i].context_len))
    return FlatBatch(
        token_ids=torch.tensor(token_ids, device=device),
        positions=torch.tensor(positions, device=device),
        metadata=plan_attention([spans[i] for i in order], block_size, dtype, device),
        first_rows=first_rows,
    )

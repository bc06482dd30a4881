"""The native CPU backend: executes step plans with the compiled kernels.

Turns a plan into flat arrays, makes one call for the whole forward pass, and reads logits of the rows that need them.
Knows no scheduler and no text. A token's bits depend on its own sequence alone: not on the rest of its step, how its
prompt was cut, where its blocks lie, or how many threads compute. The kernels see to that by construction (gemm.h,
attention.h).
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from predictor.llm.models.config import ModelConfig
from predictor.llm.native.library import CacheShape, FloatArray, NativeLibrary, Step, address, pointer
from predictor.llm.native.packing import PackedModel, aligned_zeros
from predictor.llm.native.sampler import NativeSampler
from predictor.llm.readout import LOGIT_ROWS, logit_rows, read_results
from predictor.llm.step import Chunk, ChunkResult, Draw, SamplingParams, StepPlan

_WARM_UP_BLOCK_SIZE = 16


class NativeBackend:
    """Implements `Backend`. Not thread-safe: one engine loop calls it."""

    def __init__(self, library: NativeLibrary, config: ModelConfig, packed: PackedModel, num_tokens: int) -> None:
        """num_tokens: how many of the logits stand for tokens; others are never chosen."""
        self._library = library
        self._config = config
        self._num_tokens = num_tokens
        self._kv_format = packed.config.kv_format
        self._packed: PackedModel | None = packed
        self._handle: int | None = library.new_model(packed.config)
        self._sampler = NativeSampler(library, library.team(self._handle))
        self._cache: _Cache | None = None
        # One for all steps: fresh pages would cost more than the sums that fill them.
        self._logits_buffer = np.empty((LOGIT_ROWS, config.vocab_size), np.float32)

    def block_bytes(self, block_size: int) -> int:
        config = self._config
        shape = CacheShape(self._kv_format, block_size, config.num_kv_heads, config.head_dim)
        return config.num_layers * self._library.block_bytes(shape)

    def allocate(self, num_blocks: int, block_size: int) -> None:
        self._cache = self._make_cache(num_blocks, block_size)

    def warm_up(self) -> None:
        """Runs a prompt and decodes in a small cache of their own: touches every weight, and wakes the sampler."""
        cache = self._make_cache(4, _WARM_UP_BLOCK_SIZE)
        draws = (Draw(SamplingParams(temperature=1.0, top_p=0.9, num_logprobs=1)),)
        prompt = Chunk(0, (0,) * 32, 0, (0, 1, 2), draws=draws, score_targets=(0,) * 32)
        decodes = tuple(Chunk(i, (0,), 32, (0, 1, 2), draws=draws) for i in range(4))
        for chunks in ((prompt,), decodes):
            self._execute(StepPlan(0, chunks), cache)

    def execute(self, plan: StepPlan) -> list[ChunkResult]:
        if self._cache is None:
            raise RuntimeError("execute() before allocate(), or after close()")
        return self._execute(plan, self._cache)

    def close(self) -> None:
        self._cache = None
        handle, self._handle = self._handle, None
        if handle is not None:
            self._library.free_model(handle)
        self._packed = None

    def seconds(self) -> dict[str, float]:
        """Time spent in each phase of the steps so far."""
        return self._library.seconds(self._open_handle())

    def _open_handle(self) -> int:
        if self._handle is None:
            raise RuntimeError("the backend is closed")
        return self._handle

    def _make_cache(self, num_blocks: int, block_size: int) -> _Cache:
        size_bytes = num_blocks * self.block_bytes(block_size)
        try:
            memory = aligned_zeros(size_bytes)
        except (MemoryError, ValueError) as error:  # numpy's answers when an allocation fails, or cannot be counted
            raise MemoryError(f"{num_blocks} KV blocks take {size_bytes} bytes, which cannot be had") from error
        return _Cache(memory, num_blocks, block_size)

    def _execute(self, plan: StepPlan, cache: _Cache) -> list[ChunkResult]:
        if not plan.chunks:
            return []
        handle = self._open_handle()
        batch = FlatStep(plan.chunks)
        self._library.forward(handle, batch.as_structure(cache.memory, cache.num_blocks, cache.block_size))
        return read_results(plan.chunks, batch.first_rows, self.logits, self._sampler)

    def logits(self, rows: Sequence[int]) -> FloatArray:
        """At most LOGIT_ROWS of the last step's `logit_rows`; [rows, num_tokens], good until the next call."""
        self._library.logits(self._open_handle(), array("i", rows), self._logits_buffer)
        return self._logits_buffer[: len(rows), : self._num_tokens]


class _Cache:
    """The memory of all KV blocks; kv_cache.h says how keys and values lie in it."""

    def __init__(self, memory: npt.NDArray[np.uint8], num_blocks: int, block_size: int) -> None:
        self.memory = memory
        self.num_blocks = num_blocks
        self.block_size = block_size


class FlatStep:
    """Chunks as arrays, side by side in the order of the plan. `first_rows`: where each chunk starts."""

    def __init__(self, chunks: Sequence[Chunk]) -> None:
        # Arrays of the standard library: after a step that swept the caches, numpy's would take three times as long.
        self._token_ids, self._tables = array("i"), array("i")
        self._table_offsets, self._starts, self._num_tokens = array("i"), array("i"), array("i")
        self.first_rows: list[int] = []
        for chunk in chunks:
            self.first_rows.append(len(self._token_ids))
            self._table_offsets.append(len(self._tables))
            self._starts.append(chunk.start_position)
            self._num_tokens.append(len(chunk.token_ids))
            self._token_ids.extend(chunk.token_ids)
            self._tables.extend(chunk.block_table)
        self._logit_rows = array("i", logit_rows(chunks, self.first_rows))

    def as_structure(self, cache: npt.NDArray[np.uint8], num_blocks: int, block_size: int) -> Step:
        """Points into this object and `cache`: both must outlive it."""
        return Step(
            num_chunks=len(self._num_tokens),
            num_tokens_in_all=len(self._token_ids),
            block_size=block_size,
            num_blocks=num_blocks,
            num_logit_rows=len(self._logit_rows),
            token_ids=address(self._token_ids),
            start_positions=address(self._starts),
            num_tokens=address(self._num_tokens),
            table_offsets=address(self._table_offsets),
            block_tables=address(self._tables),
            logit_rows=address(self._logit_rows),
            cache=pointer(cache),
        )

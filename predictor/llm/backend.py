"""The port between the engine and whatever computes a step.

The engine plans in plain data and owns the block ids; a backend owns the memory behind them. PyTorch is the reference
implementation (`torch_backend`); tests use one whose next token is a hash of what it reads back from its slots.
"""

from __future__ import annotations

from typing import Protocol

from predictor.llm.step import ChunkResult, StepPlan


class Backend(Protocol):
    """Five calls: size the cache, allocate it, warm up, execute steps, close."""

    def block_bytes(self, block_size: int) -> int:
        """Memory in bytes that one KV block of `block_size` tokens takes over all layers."""
        ...

    def allocate(self, num_blocks: int, block_size: int) -> None:
        """Allocate the KV cache. Called once, before the first step. Raises MemoryError when it does not fit."""
        ...

    def warm_up(self) -> None:
        """Run what would make the first request slow. Leaves no trace in the cache that a request could read."""
        ...

    def execute(self, plan: StepPlan) -> list[ChunkResult]:
        """Compute one step; results stand in the order of `plan.chunks`. Writes KV only to the slots of the chunks."""
        ...

    def close(self) -> None:
        """Give the memory back. Safe to call twice."""
        ...

"""A look inside an engine between two steps: who runs and waits, which blocks they hold, what the last step computed.

Plain values that travel between processes. They hold counts and ids, never tokens or text: whoever may look at the
engine may not therefore read what its users say. The names are those of mesh.v1.EngineDebug.
"""

from __future__ import annotations

from dataclasses import dataclass

from predictor.llm.block_pool import BlockPool
from predictor.llm.scheduler import Scheduler
from predictor.llm.sequence import GenerationRequest, Sequence
from predictor.llm.step import StepPlan

MAX_WAITING_SHOWN = 1024


@dataclass(frozen=True, slots=True)
class SequenceState:
    """num_prompt_tokens: everything that was given, the targets of a score included.

    block_table: empty while it waits.
    """

    request_id: str
    index: int
    sequence_id: int
    priority: int
    age_s: float
    num_prompt_tokens: int
    num_output_tokens: int
    num_computed_tokens: int
    num_cached_tokens: int
    num_preemptions: int
    block_table: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class BlockPoolState:
    """Every block is held, evictable or blank: see `BlockPool`."""

    block_size: int
    num_blocks: int
    num_held: int
    num_evictable: int
    num_blank: int


@dataclass(frozen=True, slots=True)
class ChunkState:
    """num_draft_tokens: how many of num_tokens are a draft."""

    sequence_id: int
    start_position: int
    num_tokens: int
    sampled: bool
    num_draft_tokens: int = 0


@dataclass(frozen=True, slots=True)
class StepState:
    """step_id: -1 before the first step."""

    step_id: int
    duration_s: float
    chunks: tuple[ChunkState, ...]


@dataclass(frozen=True, slots=True)
class Inspection:
    """Sequences stand in order of rank; of the waiting ones the first `MAX_WAITING_SHOWN`, `num_waiting` counts all."""

    running: tuple[SequenceState, ...]
    waiting: tuple[SequenceState, ...]
    num_waiting: int
    block_pool: BlockPoolState
    last_step: StepState


def inspect(scheduler: Scheduler, last_plan: StepPlan, last_step_s: float, now: float) -> Inspection:
    """`now`: seconds on the clock that sequences arrive by."""
    return Inspection(
        running=tuple(_sequence_state(sequence, now) for sequence in scheduler.running),
        waiting=tuple(_sequence_state(sequence, now) for sequence in scheduler.waiting[:MAX_WAITING_SHOWN]),
        num_waiting=len(scheduler.waiting),
        block_pool=_pool_state(scheduler.pool),
        last_step=StepState(
            last_plan.step_id,
            last_step_s,
            tuple(
                ChunkState(
                    chunk.sequence_id,
                    chunk.start_position,
                    len(chunk.token_ids),
                    bool(chunk.draws),
                    len(chunk.draft),
                )
                for chunk in last_plan.chunks
            ),
        ),
    )


def _sequence_state(sequence: Sequence, now: float) -> SequenceState:
    is_generation = isinstance(sequence.request, GenerationRequest)
    return SequenceState(
        request_id=sequence.request.request_id,
        index=sequence.index,
        sequence_id=sequence.sequence_id,
        priority=sequence.request.priority,
        age_s=now - sequence.arrived_at,
        num_prompt_tokens=sequence.num_prompt_tokens if is_generation else len(sequence.token_ids),
        num_output_tokens=sequence.num_output_tokens if is_generation else 0,
        num_computed_tokens=sequence.num_computed_tokens,
        num_cached_tokens=sequence.num_cached_tokens,
        num_preemptions=sequence.num_preemptions,
        block_table=tuple(sequence.block_table),
    )


def _pool_state(pool: BlockPool) -> BlockPoolState:
    return BlockPoolState(
        block_size=pool.block_size,
        num_blocks=pool.num_blocks,
        num_held=pool.num_blocks - pool.num_free_blocks,
        num_evictable=pool.num_evictable_blocks,
        num_blank=pool.num_free_blocks - pool.num_evictable_blocks,
    )

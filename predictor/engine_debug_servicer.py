"""mesh.v1.EngineDebug: a look inside a model's engine, between two of its steps, for those who run it.

A dead engine is described as such. One that hangs cannot be looked into, and the call says so instead of hanging too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import grpc.aio

from mesh.context import remaining_s
from mesh.errors import InvalidInput
from mesh.v1 import engine_debug_pb2 as debug
from mesh.v1 import engine_debug_pb2_grpc as debug_grpc
from predictor.llm.inspection import Inspection, SequenceState
from predictor.loader import LoadedModel
from predictor.repository import ModelRepository
from predictor.runtimes.language_model import EngineDescription, LanguageModelRuntime

# Longer than most steps take, and shorter than a person waits.
MAX_WAIT_S = 10.0
# What is left of the caller's time for the way back.
_MARGIN = 0.8

Context = grpc.aio.ServicerContext[Any, Any]


class EngineDebugServicer(debug_grpc.EngineDebugServicer):
    def __init__(self, repository: ModelRepository) -> None:
        self._repository = repository

    async def DescribeEngine(
        self, request: debug.DescribeEngineRequest, context: Context
    ) -> debug.DescribeEngineResponse:
        model = self._repository.find(request.model_name, request.model_version)
        if not isinstance(model.runtime, LanguageModelRuntime):
            raise InvalidInput(f"model '{request.model_name}' is no language model", field="model_name")
        return _message(model, await model.runtime.describe_engine(_wait_s()))


def _wait_s() -> float:
    left_s = remaining_s()
    return MAX_WAIT_S if left_s is None else min(MAX_WAIT_S, _MARGIN * left_s)


def _message(model: LoadedModel, engine: EngineDescription) -> debug.DescribeEngineResponse:
    response = debug.DescribeEngineResponse(
        model_name=model.spec.name, model_version=model.spec.version, state=engine.state, pid=engine.pid or 0
    )
    inspection = engine.inspection
    if inspection is None:
        return response
    response.running.extend(_sequences(inspection.running))
    response.waiting.extend(_sequences(inspection.waiting))
    response.num_waiting = inspection.num_waiting
    response.block_pool.CopyFrom(_block_pool(inspection, engine.kv_cache_bytes))
    response.last_step.CopyFrom(_step(inspection))
    return response


def _sequences(sequences: Iterable[SequenceState]) -> list[debug.SequenceState]:
    return [
        debug.SequenceState(
            request_id=sequence.request_id,
            index=sequence.index,
            sequence_id=sequence.sequence_id,
            priority=sequence.priority,
            age_s=sequence.age_s,
            num_prompt_tokens=sequence.num_prompt_tokens,
            num_output_tokens=sequence.num_output_tokens,
            num_computed_tokens=sequence.num_computed_tokens,
            num_cached_tokens=sequence.num_cached_tokens,
            num_preemptions=sequence.num_preemptions,
            block_table=sequence.block_table,
        )
        for sequence in sequences
    ]


def _block_pool(inspection: Inspection, size_bytes: int) -> debug.BlockPoolState:
    pool = inspection.block_pool
    return debug.BlockPoolState(
        block_size=pool.block_size,
        num_blocks=pool.num_blocks,
        num_held=pool.num_held,
        num_evictable=pool.num_evictable,
        num_blank=pool.num_blank,
        size_bytes=size_bytes,
    )


def _step(inspection: Inspection) -> debug.StepState:
    step = inspection.last_step
    return debug.StepState(
        step_id=step.step_id,
        duration_s=step.duration_s,
        chunks=[
            debug.ChunkState(
                sequence_id=chunk.sequence_id,
                start_position=chunk.start_position,
                num_tokens=chunk.num_tokens,
                sampled=chunk.sampled,
                num_draft_tokens=chunk.num_draft_tokens,
            )
            for chunk in step.chunks
        ],
    )

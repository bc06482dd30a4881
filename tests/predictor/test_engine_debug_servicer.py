"""EngineDebug through a real channel, in front of a real engine process with the hash model."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio
import pytest

from mesh.testing import eventually, serve_in_process
from mesh.v1 import engine_debug_pb2 as debug
from mesh.v1.engine_debug_pb2_grpc import EngineDebugStub, add_EngineDebugServicer_to_server
from predictor.engine_debug_servicer import EngineDebugServicer
from predictor.llm.sequence import GenerationRequest
from predictor.loader import ModelLoader, ModelSpec
from predictor.repository import ModelRepository
from predictor.runtimes.llm import LlmRuntime
from tests.predictor.fake_runtime import spec
from tests.predictor.hash_predictor import RUNTIMES
from tests.predictor.llm.engines import generation

TIMEOUT_S = 30.0


@dataclass
class Served:
    stub: EngineDebugStub
    runtime: LlmRuntime

    async def describe(self, **fields: str) -> debug.DescribeEngineResponse:
        request = debug.DescribeEngineRequest(**{"model_name": "hash", **fields})
        return await self.stub.DescribeEngine(request, timeout=TIMEOUT_S)

    async def until(self, holds: Callable[[debug.DescribeEngineResponse], bool]) -> debug.DescribeEngineResponse:
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                try:
                    engine = await self.describe()
                except grpc.aio.AioRpcError as error:
                    assert error.code() is grpc.StatusCode.UNAVAILABLE, error  # it died while it was looked at
                else:
                    if holds(engine):
                        return engine

    async def read(self, request: GenerationRequest) -> None:
        async with aclosing(self.runtime.generate(request)) as outputs:
            async for _ in outputs:
                pass


@asynccontextmanager
async def serving(folder: Path, **options: object) -> AsyncIterator[Served]:
    (folder / "weights").touch()
    hash_spec = spec("hash", "hash", "3")
    object.__setattr__(hash_spec, "storage_uri", (folder / "weights").as_uri())
    object.__setattr__(hash_spec, "options", {name: str(value) for name, value in options.items()})

    async def on_change(changed: ModelSpec, is_ready: bool) -> None:
        pass

    repository = ModelRepository([hash_spec, spec("table")], ModelLoader(folder, RUNTIMES), on_change)
    try:
        await repository.load_all()
        async with serve_in_process((add_EngineDebugServicer_to_server, EngineDebugServicer(repository))) as channel:
            runtime = repository.get("hash").runtime
            assert isinstance(runtime, LlmRuntime)
            yield Served(EngineDebugStub(channel), runtime)
    finally:
        await repository.close()


async def test_running_waiting_and_preempted_sequences_are_shown(tmp_path: Path) -> None:
    # 8 blocks of 4 tokens hold one whole output of these, or the beginnings of two.
    async with serving(tmp_path, kv_cache_bytes=8 * 4096, block_size=4, max_num_seqs=2) as served:
        requests = [generation(str(i), (i, 2, 3), 29, priority=9 - i) for i in range(3)]

        async def keep_busy() -> None:
            while True:
                await asyncio.gather(*(served.read(request) for request in requests))

        busy = asyncio.create_task(keep_busy())
        engine = await served.until(
            lambda engine: (
                len(engine.running) == 1
                and [bool(sequence.num_preemptions) for sequence in engine.waiting] == [True, False]
            )
        )
        busy.cancel()
        await asyncio.gather(busy, return_exceptions=True)

    assert (engine.model_name, engine.model_version, engine.state) == ("hash", "3", "ready")
    assert engine.pid > 0
    (running,) = engine.running
    assert running.request_id.startswith("0#")  # the caller's id, and the engine's own number of it
    assert (running.priority, running.num_prompt_tokens) == (9, 3)
    assert engine.block_pool.num_held == len(running.block_table) > 4
    assert engine.num_waiting == len(engine.waiting) == 2
    assert (engine.block_pool.num_blocks, engine.block_pool.block_size) == (8, 4)
    assert engine.block_pool.size_bytes == 8 * 4096
    assert engine.last_step.step_id > 0
    assert [chunk.sampled for chunk in engine.last_step.chunks] == [True]


async def test_a_dead_engine_is_described(tmp_path: Path) -> None:
    async with serving(tmp_path, kv_cache_bytes=2**20, restart_delay_s=30) as served:
        os.kill((await served.describe()).pid, signal.SIGKILL)

        engine = await served.until(lambda engine: engine.state != "ready" and not engine.pid)

    assert engine == debug.DescribeEngineResponse(model_name="hash", model_version="3", state="dead")


async def test_an_engine_that_hangs_does_not_hang_the_call(tmp_path: Path) -> None:
    async with serving(tmp_path, kv_cache_bytes=2**20) as served:
        pid = (await served.describe()).pid
        os.kill(pid, signal.SIGSTOP)

        calls = [
            served.stub.DescribeEngine(debug.DescribeEngineRequest(model_name="hash"), timeout=0.5) for _ in range(3)
        ]
        errors = await asyncio.gather(*calls, return_exceptions=True)
        os.kill(pid, signal.SIGCONT)

        assert [type(error) for error in errors] == [grpc.aio.AioRpcError] * 3
        for error in errors:
            assert isinstance(error, grpc.aio.AioRpcError)
            assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert f"process {pid}" in (error.details() or "")
        assert (await served.describe()).state == "ready"  # it has gone on, and answers again


async def test_an_engine_that_dies_under_a_look_ends_it(tmp_path: Path) -> None:
    async with serving(tmp_path, kv_cache_bytes=2**20) as served:
        pid = (await served.describe()).pid
        os.kill(pid, signal.SIGSTOP)
        looking = asyncio.ensure_future(served.runtime.describe_engine(TIMEOUT_S))
        await eventually(lambda: served.runtime._engine is not None and served.runtime._engine._inspection is not None)

        os.kill(pid, signal.SIGKILL)

        with pytest.raises(Exception, match="the engine is dead"):
            await looking


@pytest.mark.parametrize(
    ("fields", "code", "sentence"),
    [
        ({"model_name": "other"}, "NOT_FOUND", "model 'other' is not deployed"),
        ({"model_version": "4"}, "NOT_FOUND", "no version 4"),
        ({"model_version": "x"}, "INVALID_ARGUMENT", "'x' is no version"),
        ({"model_name": "table"}, "UNAVAILABLE", "model 'table' is unavailable"),
    ],
)
async def test_a_wrong_name_is_a_sentence(fields: dict[str, str], code: str, sentence: str, tmp_path: Path) -> None:
    async with serving(tmp_path, kv_cache_bytes=2**20) as served:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await served.describe(**fields)

    assert refusal.value.code().name == code
    assert sentence in (refusal.value.details() or "")

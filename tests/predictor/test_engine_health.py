"""An engine that hangs or dies, as health tells it: a real predictor, its engine process stopped or killed.

An engine that hangs is the one that others' health checks do not see. Here SIGSTOP makes one: the process is there, its
pipe is open, and it says nothing more.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import psutil
import pytest
from grpc_health.v1 import health_pb2
from grpc_health.v1.health_pb2_grpc import HealthStub

from mesh.oip import open_inference_pb2 as oip
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.language_model_pb2_grpc import LanguageModelStub
from tests.predictor.llm.gguf_files import SmallModel, write_small_model
from tests.predictor.running import RunningPredictor, running_predictor

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
# Long enough for a busy machine, and short enough to wait for. The pause makes sure that the time without an engine is
# seen.
OPTIONS = {
    "heartbeat_interval_s": "0.2",
    "heartbeat_timeout_s": "3",
    "restart_delay_s": "2",
    "dtype": "float32",
    "num_threads": "1",
    "kv_cache_bytes": str(1 << 26),
}


@asynccontextmanager
async def small_predictor(folder: Path) -> AsyncIterator[RunningPredictor]:
    """A predictor with a small language model whose answers take minutes."""
    model = write_small_model(folder / "small.gguf", SmallModel(max_context_tokens=100_000))
    spec = {"model_format": "llm", "storage_uri": model.as_uri(), "options": OPTIONS}
    deployments = folder / "deployments.yaml"
    deployments.write_text(json.dumps({"deployments": [{"name": "small", "predictor": spec}]}))
    async with running_predictor(folder, "--deployments", str(deployments)) as predictor:
        await predictor.until_ready("small")
        yield predictor


def generation(max_tokens: int) -> lm.GenerateRequest:
    sampling = lm.SamplingParameters(temperature=0, max_tokens=max_tokens, ignore_eos=True)
    return lm.GenerateRequest(model_name="small", text="the", sampling=sampling)


def engine_of(predictor: RunningPredictor) -> psutil.Process:
    [engine] = psutil.Process(predictor.process.pid).children()
    return engine


async def until(watch: AsyncIterator[health_pb2.HealthCheckResponse], status: int) -> list[int]:
    """What the watch says, up to `status`."""
    seen: list[int] = []
    async with asyncio.timeout(60):
        while status not in seen:
            seen.append((await anext(watch)).status)
    return seen


@pytest.mark.parametrize("how", [signal.SIGSTOP, signal.SIGKILL])
async def test_health_says_that_an_engine_hangs_or_died_and_is_back(how: signal.Signals, tmp_path: Path) -> None:
    async with small_predictor(tmp_path) as predictor, predictor.channel() as channel:
        health, models = HealthStub(channel), GRPCInferenceServiceStub(channel)
        watch = aiter(health.Watch(health_pb2.HealthCheckRequest(service="small")))
        assert await until(watch, SERVING) == [SERVING]
        streams = [LanguageModelStub(channel).Generate(generation(50_000)) for _ in range(3)]
        for stream in streams:
            await stream.read()
        engine = engine_of(predictor)

        os.kill(engine.pid, how)

        assert await until(watch, NOT_SERVING) == [NOT_SERVING]
        assert not (await models.ModelReady(oip.ModelReadyRequest(name="small"))).ready
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await LanguageModelStub(channel).Generate(generation(1)).read()
        assert refusal.value.code() is grpc.StatusCode.UNAVAILABLE
        assert "model 'small' is unavailable: the engine is" in (refusal.value.details() or "")
        for stream in streams:
            await assert_ends_unavailable(stream)
        # The predictor itself is well, and its other models would be served.
        assert (await health.Check(health_pb2.HealthCheckRequest(service=""))).status == SERVING

        assert await until(watch, SERVING) == [SERVING]
        [*_, last] = [response async for response in LanguageModelStub(channel).Generate(generation(4))]
        assert last.usage.output_tokens == 4
        assert engine_of(predictor).pid != engine.pid
        assert not engine.is_running()


async def assert_ends_unavailable(stream: grpc.aio.UnaryStreamCall[lm.GenerateRequest, lm.GenerateResponse]) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as broken:
        async with asyncio.timeout(30):
            while await stream.read() is not grpc.aio.EOF:
                pass
    assert broken.value.code() is grpc.StatusCode.UNAVAILABLE

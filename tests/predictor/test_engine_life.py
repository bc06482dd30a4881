"""The life of an engine as the rest of the mesh sees it: through gRPC, its health service and the metrics of a real
predictor process."""

from __future__ import annotations

import asyncio
import os
import signal
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from mesh.v1 import engine_debug_pb2 as debug
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.engine_debug_pb2_grpc import EngineDebugStub
from mesh.v1.language_model_pb2_grpc import LanguageModelStub
from tests.predictor.hash_predictor import running_hash_predictor
from tests.predictor.llm.engines import GREEDY
from tests.predictor.llm.hash_model import HANG_ID, continuation
from tests.predictor.running import RunningPredictor, eventually

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
IMPATIENT = {"heartbeat_interval_s": 0.1, "heartbeat_timeout_s": 1.0, "restart_delay_s": 0.01}
OWN = {"model_name", "version", "engine"}
SMALL = {"kv_cache_bytes": 4 * 2**20, "max_num_seqs": 2, "max_num_batched_tokens": 64}


class Calls:
    """What the tests ask a predictor, on one channel."""

    def __init__(self, predictor: RunningPredictor, channel: grpc.aio.Channel) -> None:
        self.predictor = predictor
        self._health = health_pb2_grpc.HealthStub(channel)
        self._debug = EngineDebugStub(channel)
        self._models = LanguageModelStub(channel)

    async def health(self) -> int:
        response = await self._health.Check(health_pb2.HealthCheckRequest(service="hash"))
        return int(response.status)

    async def until_health(self, status: int) -> None:
        async def is_so() -> bool:
            return await self.health() == status

        await eventually(is_so, 20, f"health is {status}\n{self.predictor.log[-2000:]}")

    async def describe(self, timeout_s: float = 20.0) -> debug.DescribeEngineResponse:
        return await self._debug.DescribeEngine(debug.DescribeEngineRequest(model_name="hash"), timeout=timeout_s)

    async def until_idle(self) -> None:
        async def is_idle() -> bool:
            engine = await self.describe()
            return not engine.running and not engine.waiting and engine.block_pool.num_held == 0

        await eventually(is_idle, 20, "nothing runs and no block is held")

    async def until_engine(self, holds: Callable[[debug.DescribeEngineResponse], bool]) -> None:
        async def is_so() -> bool:
            return holds(await self.describe())

        await eventually(is_so, 20, "the engine is as the test wants it")

    def generate(
        self, *token_ids: int, max_tokens: int = 4000, timeout_s: float | None = None
    ) -> grpc.aio.UnaryStreamCall[lm.GenerateRequest, lm.GenerateResponse]:
        sampling = lm.SamplingParameters(temperature=0, max_tokens=max_tokens, ignore_eos=True)
        request = lm.GenerateRequest(model_name="hash", token_ids=lm.TokenIds(ids=token_ids), sampling=sampling)
        return self._models.Generate(request, timeout=timeout_s)

    async def metrics(self) -> dict[str, float]:
        """Values of the engine's series by name; of those with a further label by name and its value."""
        url = f"http://{self.predictor.addresses['metrics_address']}/metrics"
        text = await asyncio.to_thread(lambda: urllib.request.urlopen(url, timeout=10).read().decode())
        return {
            " ".join([sample.name, *(value for label, value in sorted(sample.labels.items()) if label not in OWN)]): (
                sample.value
            )
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


@asynccontextmanager
async def calls(folder: Path, *flags: str, **options: object) -> AsyncIterator[Calls]:
    async with running_hash_predictor(folder, *flags, **{**SMALL, **options}) as predictor:
        async with predictor.channel() as channel:
            yield Calls(predictor, channel)


async def stop_idle(call: Calls) -> None:
    os.kill((await call.describe()).pid, signal.SIGSTOP)


async def hang_in_a_step(call: Calls) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call.generate(1, HANG_ID).read()
    assert failure.value.code() is grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("hang", [stop_idle, hang_in_a_step])
async def test_a_hung_engine_is_not_serving_and_comes_back(
    hang: Callable[[Calls], Awaitable[None]], tmp_path: Path
) -> None:
    async with calls(tmp_path, **IMPATIENT) as call:
        pid = (await call.describe()).pid
        # A Watch stream is told of every change, so the time between death and return cannot be missed.
        watch = call._health.Watch(health_pb2.HealthCheckRequest(service="hash"))
        statuses: list[int] = []

        async def see() -> None:
            async for response in watch:
                statuses.append(int(response.status))

        seeing = asyncio.create_task(see())
        await hang(call)

        async def is_back() -> bool:
            return statuses == [SERVING, NOT_SERVING, SERVING]

        await eventually(is_back, 20, f"health went down and up: {statuses}")
        seeing.cancel()
        await asyncio.gather(seeing, return_exceptions=True)
        assert (await call.describe()).pid != pid
        answer = [token async for response in call.generate(1, 2, 3, max_tokens=9) for token in response.token_ids]
        assert answer == continuation((1, 2, 3), 9, GREEDY)
    assert [event["reason"] for event in call.predictor.events("engine_died")] == ["hung"]


async def test_counters_go_on_when_the_engine_does_not(tmp_path: Path) -> None:
    async with calls(tmp_path, **IMPATIENT) as call:
        async for _ in call.generate(1, 2, 3, max_tokens=50):
            pass
        before = await call.metrics()
        stream = call.generate(1, 2, 3)
        await stream.read()
        os.kill((await call.describe()).pid, signal.SIGKILL)
        with pytest.raises(grpc.aio.AioRpcError):
            while await stream.read() is not grpc.aio.EOF:
                pass
        await call.until_health(SERVING)
        async for _ in call.generate(1, 2, 3, max_tokens=50):
            pass

        after = await call.metrics()

    assert before["vllm:generation_tokens_total"] == 50
    assert after["vllm:generation_tokens_total"] > 100  # both answers, and what came before the kill
    assert after["vllm:prompt_tokens_total"] == 9
    assert after["vllm:request_success_total length"] == 2
    assert after["vllm:request_success_total error"] == 1
    assert after["meshserve_engine_deaths_total"] == 1
    assert after["vllm:num_requests_running"] == 0
    for name, value in before.items():
        if name.split()[0].endswith(("_total", "_count", "_sum")) and name.startswith("vllm:"):
            assert after[name] >= value, name


async def test_a_deadline_ends_what_runs_and_what_waits(tmp_path: Path) -> None:
    async with calls(tmp_path, max_num_seqs=1) as call:
        running = call.generate(1, 2, 3)
        await running.read()
        waiting = call.generate(4, 5, 6, timeout_s=0.5)

        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await waiting.read()

        assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await call.until_engine(lambda engine: engine.num_waiting == 0 and len(engine.running) == 1)
        running.cancel()
        await call.until_idle()
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            async for _ in call.generate(1, 2, 3, timeout_s=0.2):
                pass
        assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await call.until_idle()

        async def are_counted() -> bool:
            return (await call.metrics())["vllm:request_success_total abort"] == 3

        await eventually(are_counted, 10, "three outputs were aborted")


async def test_an_engine_logs_as_its_predictor_does(tmp_path: Path) -> None:
    async with calls(tmp_path, "--log-format", "console", "--log-level", "info") as call:
        log = call.predictor.log

    assert "engine_ready" in log
    assert not any(line.startswith("{") for line in log.splitlines())


async def test_a_quiet_predictor_has_a_quiet_engine(tmp_path: Path) -> None:
    async with calls(tmp_path, "--log-level", "error") as call:
        assert call.predictor.log == ""


async def test_the_kv_budget_is_told_in_tokens(tmp_path: Path) -> None:
    async with calls(tmp_path) as call:
        (event,) = call.predictor.events("kv_cache_ready")
        metrics = await call.metrics()

    assert (event["model"], event["tokens"], event["size_bytes"]) == ("hash", 4096, 4 * 2**20)
    assert (event["service"], event["blocks"], event["block_size"]) == ("predictor", 256, 16)
    # block_size, cache_dtype, enable_prefix_caching, kv_cache_bytes, num_gpu_blocks
    assert metrics["vllm:cache_config_info 16 int64 True 4194304 256"] == 1

"""Many models in one predictor through a real channel: versions side by side, loading on demand, failures, health."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import grpc.aio
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from mesh.errors import CorruptArtifact
from mesh.oip import open_inference_pb2 as oip
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from mesh.retry import Backoff
from mesh.serve import Health
from mesh.tensors import Tensor, encode_request
from mesh.testing import serve_in_process
from predictor.presence import Presence
from predictor.repository import ModelRepository
from predictor.servicer import OpenInferenceServicer, add_open_inference_to_server
from tests.predictor.fake_runtime import CountdownRuntime, FakeLoader, spec
from tests.predictor.loaded_repository import until

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SIZE = 1000


@dataclass
class Served:
    """A predictor of fakes that take SIZE bytes each."""

    stub: GRPCInferenceServiceStub
    health_stub: health_pb2_grpc.HealthStub
    repository: ModelRepository
    loader: FakeLoader

    async def index(self, *, ready: bool = False) -> list[tuple[str, str, str, str]]:
        answer = await self.stub.RepositoryIndex(oip.RepositoryIndexRequest(ready=ready))
        return [(model.name, model.version, model.state, model.reason) for model in answer.models]

    async def health(self, service: str) -> health_pb2.HealthCheckResponse.ServingStatus:
        return (await self.health_stub.Check(health_pb2.HealthCheckRequest(service=service))).status

    async def is_ready(self, name: str, version: str = "") -> bool:
        return (await self.stub.ModelReady(oip.ModelReadyRequest(name=name, version=version))).ready

    async def load(self, name: str, **version: str) -> None:
        parameters = {key: oip.ModelRepositoryParameter(string_param=value) for key, value in version.items()}
        await self.stub.RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name=name, parameters=parameters))

    async def unload(self, name: str, **version: str) -> None:
        parameters = {key: oip.ModelRepositoryParameter(string_param=value) for key, value in version.items()}
        await self.stub.RepositoryModelUnload(oip.RepositoryModelUnloadRequest(model_name=name, parameters=parameters))


@asynccontextmanager
async def serving(*names: str, room_for: int = 0, load_wait_s: float = 60.0) -> AsyncIterator[Served]:
    """names: `name` or `name:version`; room_for: models that the budget has room for, 0 for no budget."""
    specs = [
        spec(name, "countdown" if name == "countdown" else "identity", version or "1")
        for name, _, version in (each.partition(":") for each in names)
    ]
    loader, health = FakeLoader(countdown=CountdownRuntime), Health()
    repository = ModelRepository(
        specs,
        loader,
        Presence(health, specs).model_changed,
        memory_budget_bytes=room_for * SIZE,
        load_wait_s=load_wait_s,
        backoff=lambda: Backoff(60, 60),
    )
    await repository.load_all()
    async with serve_in_process(
        (add_open_inference_to_server, OpenInferenceServicer(repository, "1.2.3")),
        (health_pb2_grpc.add_HealthServicer_to_server, health.servicer),
    ) as channel:
        yield Served(GRPCInferenceServiceStub(channel), health_pb2_grpc.HealthStub(channel), repository, loader)
    await repository.close()
    assert loader.bytes_in_memory == 0


def request(name: str, version: str = "", *, id: str = "", number: float = 1.0) -> oip.ModelInferRequest:
    message = oip.ModelInferRequest(model_name=name, model_version=version, id=id)
    message.outputs.add(name="fp32_out")
    encode_request(message, [Tensor("fp32_in", "FP32", np.array([[number, 0]], np.float32))])
    return message


async def outcome(served: Served, message: oip.ModelInferRequest, timeout: float | None = None) -> str:
    """The version that answered, or the status and its sentence."""
    try:
        return (await served.stub.ModelInfer(message, timeout=timeout)).model_version
    except grpc.aio.AioRpcError as error:
        return f"{error.code().name}: {error.details()}"


async def test_versions_answer_side_by_side() -> None:
    async with serving("a:2", "a:1", "a:10", "b") as served:
        answers = [await outcome(served, request("a", version)) for version in ("", "1", "2", "10")]
        metadata = [
            await served.stub.ModelMetadata(oip.ModelMetadataRequest(name="a", version=version))
            for version in ("", "1")
        ]
        config = await served.stub.ModelConfig(oip.ModelConfigRequest(name="a", version="10"))
        statistics = await served.stub.ModelStatistics(oip.ModelStatisticsRequest(name="a"))
        one = await served.stub.ModelStatistics(oip.ModelStatisticsRequest(name="a", version="1"))
        index = await served.index()
        health = [await served.health(name) for name in ("a", "a/versions/1", "a/versions/2", "a/versions/10")]

    assert answers == ["2", "1", "2", "10"]
    assert [list(answer.versions) for answer in metadata] == [["2", "1", "10"]] * 2
    assert config.config.name == "a"
    assert [(model.version, model.inference_count) for model in statistics.model_stats] == [
        ("2", 2),
        ("1", 1),
        ("10", 1),
    ]
    assert [model.version for model in one.model_stats] == ["1"]
    assert [entry[:3] for entry in index] == [
        ("a", "2", "READY"),
        ("a", "1", "READY"),
        ("a", "10", "READY"),
        ("b", "1", "READY"),
    ]
    assert health == [SERVING] * 4


async def test_other_versions_are_refused_as_the_contract_says() -> None:
    async with serving("a:2", "a:1") as served:
        assert await outcome(served, request("a", "3")) == "NOT_FOUND: model 'a' has no version 3; it has 2, 1"
        assert await outcome(served, request("a", "newest")) == (
            "INVALID_ARGUMENT: 'newest' is no version; versions are whole numbers"
        )
        assert not await served.is_ready("a", "3")


async def test_a_version_is_loaded_and_unloaded_by_itself_or_with_the_others() -> None:
    async with serving("a:2", "a:1") as served:
        await served.unload("a", version="1")
        assert [await served.is_ready("a", version) for version in ("", "2", "1")] == [True, True, False]
        assert await served.health("a/versions/1") == NOT_SERVING
        assert await outcome(served, request("a", "1")) == "UNAVAILABLE: model 'a' is unavailable: unloaded"
        await served.unload("a")
        assert [entry[2:] for entry in await served.index()] == [("UNAVAILABLE", "unloaded")] * 2
        assert await served.health("a") == NOT_SERVING
        await served.load("a", version="1")
        assert [await served.is_ready("a", version) for version in ("2", "1")] == [False, True]
        await served.load("a")
        assert await outcome(served, request("a")) == "2"
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await served.load("a", version="7")
        with pytest.raises(grpc.aio.AioRpcError) as nonsense:
            wrong = {"version": oip.ModelRepositoryParameter(bool_param=True)}
            await served.stub.RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name="a", parameters=wrong))

    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
    assert nonsense.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert nonsense.value.details() == "parameter 'version' must be a text or a whole number"


async def test_a_hundred_requests_for_five_models_with_room_for_two() -> None:
    async with serving(*"abcde", room_for=2) as served:
        requests = [request("abcde"[number % 5], id=f"r{number}", number=100.0 + number) for number in range(100)]
        answers = await asyncio.gather(*(served.stub.ModelInfer(message, timeout=60) for message in requests))
        [index, loader] = await served.index(), served.loader

    for number, answer in enumerate(answers):
        assert (answer.id, answer.model_name) == (f"r{number}", "abcde"[number % 5])
        assert np.frombuffer(answer.raw_output_contents[0], np.float32).tolist() == [100 + number, 0]
    assert {entry[2] for entry in index} == {"READY"}
    assert sum(entry[3] == "" for entry in index) == 2
    assert loader.most_bytes <= 2 * SIZE
    assert set(loader.max_loading.values()) == {1}


async def test_a_model_that_is_not_in_memory_is_servable_and_the_index_says_how() -> None:
    async with serving("a", "b", room_for=1) as served:
        assert await outcome(served, request("a")) == "1"

        assert await served.index(ready=True) == [
            ("a", "1", "READY", ""),
            ("b", "1", "READY", "not in memory; the next request loads it"),
        ]
        assert await served.is_ready("b")
        assert await served.health("b") == SERVING
        statistics = await served.stub.ModelStatistics(oip.ModelStatisticsRequest(name="b"))
        metadata = await served.stub.ModelMetadata(oip.ModelMetadataRequest(name="b"))

    assert not statistics.model_stats
    assert metadata.platform == "test_identity"


async def test_a_failed_load_is_in_the_index_and_in_health_until_it_is_mended() -> None:
    async with serving("a", "b", room_for=2) as served:
        served.loader.failures["a"] = CorruptArtifact("model.bin is truncated")
        sentence = "UNAVAILABLE: model 'a' is unavailable: model.bin is truncated"
        assert [await outcome(served, request("a")) for _ in range(3)] == [sentence] * 3
        assert served.loader.loads == ["a:1"]
        assert (await served.index())[0] == ("a", "1", "UNAVAILABLE", "model.bin is truncated")
        await until(lambda: not served.repository.is_model_ready("a"))
        assert [await served.health(name) for name in ("a", "b")] == [NOT_SERVING, SERVING]
        assert await outcome(served, request("b")) == "1"

        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await served.load("a")
        served.loader.failures.clear()
        await served.load("a")

        assert await served.health("a") == SERVING
        assert await outcome(served, request("a")) == "1"
    assert refusal.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_stream_keeps_its_model_and_who_needs_the_room_is_told_in_time() -> None:
    def countdown(rows: int) -> oip.ModelInferRequest:
        message = oip.ModelInferRequest(model_name="countdown")
        encode_request(message, [Tensor("int64_in", "INT64", np.array([[rows, 0]]))])
        return message

    async with serving("countdown", "b", room_for=1) as served:
        await served.load("countdown")
        runtime = served.loader.runtimes["countdown"]
        runtime.gate = asyncio.Event()
        stream = served.stub.ModelStreamInfer(iter([countdown(3)]))
        await until(lambda: served.repository.memory_by_model() != [])
        reading = asyncio.create_task(_read_all(stream))
        await until(lambda: runtime.num_waiting > 0)

        refused = await outcome(served, request("b"), timeout=2)
        assert not runtime.is_unloaded
        runtime.gate.set()
        answers = await reading
        answered = await outcome(served, request("b"))

    assert refused.startswith("RESOURCE_EXHAUSTED: 0.0 MiB of memory did not become free within 1.")
    assert [answer.error_message for answer in answers] == ["", "", ""]
    assert answered == "1"


async def _read_all(
    stream: grpc.aio.StreamStreamCall[oip.ModelInferRequest, oip.ModelStreamInferResponse],
) -> list[oip.ModelStreamInferResponse]:
    return [answer async for answer in stream]


async def test_unload_while_in_use_lets_the_request_finish() -> None:
    async with serving("a", room_for=1) as served:
        await served.load("a")
        runtime = served.loader.runtimes["a"]
        runtime.gate = asyncio.Event()
        running = asyncio.create_task(outcome(served, request("a")))
        await until(lambda: runtime.num_waiting > 0)
        unloading = asyncio.create_task(served.unload("a"))
        await until(lambda: not served.repository.is_model_ready("a"))

        refused = await outcome(served, request("a"))
        assert not runtime.is_unloaded
        runtime.gate.set()

        assert await running == "1"
        await unloading
        assert runtime.is_unloaded
        assert refused == "UNAVAILABLE: model 'a' is unloading"
        assert await outcome(served, request("a")) == "UNAVAILABLE: model 'a' is unavailable: unloaded"
        await served.load("a")
        assert await outcome(served, request("a")) == "1"


async def test_a_model_that_can_never_fit_is_refused_with_a_sentence() -> None:
    async with serving("a", "big", room_for=1) as served:
        served.loader.memory_bytes["big"] = 3 << 20

        first, second = [await outcome(served, request("big"), timeout=30) for _ in range(2)]

        assert first == second
        assert first == (
            "UNAVAILABLE: model 'big' is unavailable: 3.0 MiB of memory are needed, and the predictor's budget is "
            "0.0 MiB (memory_budget_mb)"
        )
        assert served.loader.loads == ["big:1"]

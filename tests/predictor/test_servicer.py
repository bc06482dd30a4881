"""The Open Inference Protocol at the predictor, through a real channel.

What each malformed request gets is the table of tests/contract/test_oip_outcomes.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from mesh.oip import open_inference_pb2 as oip
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from mesh.tensors import DATATYPES, Tensor, decode_response, encode_request
from mesh.testing import eventually, serve_in_process, serve_on_free_port
from predictor.loader import ModelLoader, ModelSpec
from predictor.repository import ModelRepository
from predictor.runtimes import RUNTIMES
from predictor.servicer import OpenInferenceServicer, add_open_inference_to_server
from tests.predictor.fake_runtime import CountdownRuntime, FakeLoader, spec


@dataclass
class Served:
    stub: GRPCInferenceServiceStub
    repository: ModelRepository
    loader: FakeLoader

    async def stream(self, *requests: oip.ModelInferRequest) -> list[oip.ModelStreamInferResponse]:
        return [response async for response in self.stub.ModelStreamInfer(iter(requests))]


async def repository_of(loader: FakeLoader) -> ModelRepository:
    async def on_change(changed: ModelSpec, is_ready: bool) -> None:
        pass

    specs = [spec("identity"), spec("countdown", "countdown"), spec("broken")]
    repository = ModelRepository(specs, loader, on_change)
    await repository.load_all()
    return repository


@asynccontextmanager
async def serving_on_channel() -> AsyncIterator[grpc.aio.Channel]:
    servicer = OpenInferenceServicer(await repository_of(FakeLoader()), "1.2.3")
    async with serve_in_process((add_open_inference_to_server, servicer)) as channel:
        yield channel


@asynccontextmanager
async def serving() -> AsyncIterator[Served]:
    loader = FakeLoader(countdown=CountdownRuntime)
    loader.failures["broken"] = RuntimeError("a bug in /secret/path")
    repository = await repository_of(loader)
    servicer = OpenInferenceServicer(repository, "1.2.3")
    async with serve_in_process((add_open_inference_to_server, servicer)) as channel:
        yield Served(GRPCInferenceServiceStub(channel), repository, loader)


def fp32(rows: Any = ((1.0, 2.0),), *, raw: bool = True, **fields: Any) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(**{"model_name": "identity", **fields})
    encode_request(request, [Tensor("fp32_in", "FP32", np.array(rows, dtype=np.float32).reshape(-1, 2))], raw=raw)
    return request


def request_with(shape: list[int], datatype: str = "FP32", raw: bytes | None = None, **contents: Any) -> Any:
    request = oip.ModelInferRequest(model_name="identity")
    request.inputs.add(name=f"{datatype.lower()}_in", datatype=datatype, shape=shape)
    if raw is not None:
        request.raw_input_contents.append(raw)
    if contents:
        request.inputs[0].contents.CopyFrom(oip.InferTensorContents(**contents))
    return request


@pytest.mark.parametrize("character", ["x", "é", "\U0001f600"])
async def test_a_monstrous_name_is_an_error_of_the_same_kind(character: str) -> None:
    async with serving() as served:
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await served.stub.ModelInfer(fp32(model_name=character * 1_000_000))

        [answer] = await served.stream(fp32(model_name=character * 1_000_000))

    assert refusal.value.code() is grpc.StatusCode.NOT_FOUND
    assert len(refusal.value.details() or "") <= 2048
    assert 0 < len(answer.error_message) <= 2048


async def test_an_unexpected_failure_names_the_request_id_and_no_path() -> None:
    async with serving() as served:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await served.stub.ModelInfer(fp32([[13.0, 0.0]]), metadata=(("x-request-id", "req-77"),))

    details = failure.value.details() or ""
    assert "req-77" in details
    assert "secret" not in details
    assert "bug" not in details


@pytest.mark.parametrize("raw", [True, False])
async def test_id_and_version_come_back_and_raw_answers_raw(raw: bool) -> None:
    request = fp32(raw=raw, id="mine")
    request.outputs.add(name="fp32_out")
    async with serving() as served:
        response = await served.stub.ModelInfer(request)

    assert (response.model_name, response.model_version, response.id) == ("identity", "1", "mine")
    assert bool(response.raw_output_contents) == raw
    assert response.outputs[0].HasField("contents") != raw


async def test_outputs_come_in_the_order_asked_for() -> None:
    request = fp32()
    request.outputs.add(name="int64_out")
    request.outputs.add(name="fp32_out")
    async with serving() as served:
        response = await served.stub.ModelInfer(request)

    assert [output.name for output in response.outputs] == ["int64_out", "fp32_out"]
    assert list(response.outputs[0].shape) == [1, 2]


@pytest.mark.parametrize("raw", [True, False])
@pytest.mark.parametrize("datatype", ["BOOL", "UINT8", "UINT64", "INT16", "INT64", "FP16", "BF16", "FP64", "BYTES"])
async def test_every_kind_of_datatype_goes_in_and_out(datatype: str, raw: bool) -> None:
    values = np.array([[b"", b"\xff"]], dtype=object) if datatype == "BYTES" else np.array([[1, 0]])
    tensor = Tensor(f"{datatype.lower()}_in", datatype, values.astype(DATATYPES[datatype].dtype))
    request = oip.ModelInferRequest(model_name="identity")
    request.outputs.add(name=f"{datatype.lower()}_out")
    encode_request(request, [tensor], raw=raw)

    async with serving() as served:
        response = await served.stub.ModelInfer(request)

    assert decode_response(response)[f"{datatype.lower()}_out"].array.tolist() == tensor.array.tolist()


async def test_unknown_parameters_and_gzip_are_taken() -> None:
    request = fp32()
    request.parameters["who_knows"].string_param = "x"
    async with serving() as served:
        response = await served.stub.ModelInfer(request, compression=grpc.Compression.Gzip)

    assert response.model_name == "identity"


async def test_a_message_above_the_limit_is_resource_exhausted() -> None:
    # A channel without a limit of its own, so that the server's is what refuses.
    request = request_with([1, 2], "BYTES", bytes_contents=[b"x" * (64 << 20), b"y"])
    options = [("grpc.max_send_message_length", -1)]
    servicer = OpenInferenceServicer(await repository_of(FakeLoader()), "1.2.3")
    async with serve_on_free_port((add_open_inference_to_server, servicer)) as address:
        async with grpc.aio.insecure_channel(address, options=options) as channel:
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await GRPCInferenceServiceStub(channel).ModelInfer(request)

    assert refusal.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_a_stream_goes_on_after_a_bad_request() -> None:
    async with serving() as served:
        good, bad, buggy, again = await served.stream(
            fp32(id="a"), fp32(id="b", model_version="x"), fp32([[13.0, 0.0]], id="c"), fp32(id="d")
        )

    assert (good.error_message, good.infer_response.id) == ("", "a")
    assert bad.error_message == "'x' is no version; versions are whole numbers"
    assert (bad.infer_response.id, bad.infer_response.model_name) == ("b", "identity")
    assert buggy.error_message.startswith("internal error; the logs have it under request id")
    assert "secret" not in buggy.error_message
    assert (again.error_message, again.infer_response.id) == ("", "d")


async def test_requests_of_one_stream_run_side_by_side_and_are_answered_in_order() -> None:
    async with serving() as served:
        runtime = served.loader.runtimes["identity"]
        runtime.gate = asyncio.Event()
        call = served.stub.ModelStreamInfer()
        for number in range(6):
            await call.write(fp32([[number, 0]], id=str(number)))
        await eventually(lambda: served.repository.get("identity").batcher.num_waiting == 5)
        runtime.gate.set()
        await call.done_writing()
        answers = [response async for response in call]
        [statistics] = (
            await served.stub.ModelStatistics(oip.ModelStatisticsRequest(name="identity", version="1"))
        ).model_stats

    assert [answer.infer_response.id for answer in answers] == list("012345")
    rows = [decode_response(answer.infer_response)["fp32_out"].array.tolist() for answer in answers]
    assert rows == [[[float(number), 0.0]] for number in range(6)]
    assert [batch.batch_size for batch in statistics.batch_stats] == [1, 5]
    assert (statistics.inference_count, statistics.execution_count) == (6, 2)
    assert statistics.inference_stats.queue.count == 6
    assert statistics.inference_stats.queue.ns > 0


async def test_a_request_whose_deadline_passes_while_it_waits_is_not_computed() -> None:
    async with serving() as served:
        runtime = served.loader.runtimes["identity"]
        runtime.gate = asyncio.Event()
        model = served.repository.get("identity")
        first = served.stub.ModelInfer(fp32())
        await eventually(lambda: model.batcher.num_running == 1)

        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await served.stub.ModelInfer(fp32(), timeout=0.1)
        await eventually(lambda: model.batcher.num_waiting == 0)
        runtime.gate.set()
        await first

    assert refusal.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert model.statistics.execution_count == 1


async def test_cancelling_a_stream_cancels_what_runs() -> None:
    async with serving() as served:
        runtime = served.loader.runtimes["identity"]
        runtime.gate = asyncio.Event()
        model = served.repository.get("identity")
        call = served.stub.ModelStreamInfer()
        for _ in range(3):
            await call.write(fp32())
        await eventually(lambda: model.batcher.num_waiting == 2)

        call.cancel()

        await eventually(lambda: (model.batcher.num_waiting, model.batcher.num_running) == (0, 0))
        assert model.statistics.cancelled.count == 3


async def test_a_malformed_message_in_a_stream_is_the_client_s_fault() -> None:
    async with serving_on_channel() as channel:
        call = channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(
            iter([fp32(id="a").SerializeToString(), b"\xff\xff\xff"])
        )
        first = oip.ModelStreamInferResponse.FromString(await call.read())
        with pytest.raises(grpc.aio.AioRpcError) as refusal:
            await call.read()

    assert first.infer_response.id == "a"
    assert refusal.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "malformed" in (refusal.value.details() or "")


def countdown(num_answers: int, *, asks_final: bool = False) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name="countdown", id="n")
    if asks_final:
        request.parameters["triton_enable_empty_final_response"].bool_param = True
    encode_request(request, [Tensor("int64_in", "INT64", np.array([[num_answers, 0]]))])
    return request


async def test_a_decoupled_model_answers_as_often_as_it_likes() -> None:
    async with serving() as served:
        assert len(await served.stream(countdown(3), countdown(0), countdown(1))) == 4
        [statistics] = (await served.stub.ModelStatistics(oip.ModelStatisticsRequest(name="countdown"))).model_stats

    answers = statistics.response_stats
    assert {number: answers[number].success.count for number in answers} == {"0": 2, "1": 1, "2": 1}
    assert statistics.execution_count == 3


async def test_the_last_answer_is_marked_when_the_client_asks() -> None:
    async with serving() as served:
        answers = await served.stream(countdown(2, asks_final=True))
        plain = await served.stream(countdown(2))

    marks = [answer.infer_response.parameters["triton_final_response"].bool_param for answer in answers]
    assert marks == [False, False, True]
    assert not answers[-1].infer_response.outputs
    assert all(not answer.infer_response.parameters for answer in plain)


async def test_the_only_answer_of_a_plain_model_is_its_last() -> None:
    request = fp32()
    request.parameters["triton_enable_empty_final_response"].bool_param = True
    async with serving() as served:
        [answer] = await served.stream(request)

    assert answer.infer_response.parameters["triton_final_response"].bool_param


async def test_health_and_metadata() -> None:
    async with serving() as served:
        assert (await served.stub.ServerLive(oip.ServerLiveRequest())).live
        assert (await served.stub.ServerReady(oip.ServerReadyRequest())).ready
        for name, ready in (("identity", True), ("broken", False), ("nobody", False)):
            assert (await served.stub.ModelReady(oip.ModelReadyRequest(name=name))).ready is ready
        server = await served.stub.ServerMetadata(oip.ServerMetadataRequest())
        metadata = await served.stub.ModelMetadata(oip.ModelMetadataRequest(name="identity"))
        config = (await served.stub.ModelConfig(oip.ModelConfigRequest(name="countdown"))).config
        served.repository.drain()
        assert not (await served.stub.ServerReady(oip.ServerReadyRequest())).ready

    assert (server.name, server.version) == ("meshserve-predictor", "1.2.3")
    assert (metadata.platform, list(metadata.versions)) == ("test_identity", ["1"])
    assert ("bytes_in", "BYTES", [-1, 2]) in [(i.name, i.datatype, list(i.shape)) for i in metadata.inputs]
    assert (config.name, config.max_batch_size, config.model_transaction_policy.decoupled) == ("countdown", 8, True)
    assert list(config.input[0].dims) == [2]
    assert config.input[-1].data_type == oip.TYPE_STRING
    assert config.HasField("dynamic_batching")


async def test_statistics_count_what_ran() -> None:
    async with serving() as served:
        await served.stub.ModelInfer(fp32([[1, 2], [3, 4]]))
        with pytest.raises(grpc.aio.AioRpcError):
            await served.stub.ModelInfer(fp32([[1, 2]] * 9))
        one = await served.stub.ModelStatistics(oip.ModelStatisticsRequest(name="identity"))
        every = await served.stub.ModelStatistics(oip.ModelStatisticsRequest())

    [statistics] = one.model_stats
    assert (statistics.inference_count, statistics.execution_count) == (2, 1)
    assert (statistics.inference_stats.success.count, statistics.inference_stats.fail.count) == (1, 1)
    assert statistics.inference_stats.success.ns >= statistics.inference_stats.compute_infer.ns > 0
    assert [batch.batch_size for batch in statistics.batch_stats] == [2]
    assert statistics.last_inference > 0
    assert [(memory.type, memory.byte_size) for memory in statistics.memory_usage] == [("CPU", 1000)]
    assert [model.name for model in every.model_stats] == ["identity", "countdown"]


async def test_the_index_has_states_and_reasons() -> None:
    async with serving() as served:
        index = await served.stub.RepositoryIndex(oip.RepositoryIndexRequest())
        ready = await served.stub.RepositoryIndex(oip.RepositoryIndexRequest(ready=True))

    assert [(model.name, model.version, model.state) for model in index.models] == [
        ("identity", "1", "READY"),
        ("countdown", "1", "READY"),
        ("broken", "1", "UNAVAILABLE"),
    ]
    assert index.models[2].reason == "an unexpected failure; the logs have it"
    assert [model.name for model in ready.models] == ["identity", "countdown"]


@pytest.mark.parametrize("field", ["model_name", "repository_name"], ids=["Triton", "KServe"])
async def test_load_and_unload_in_both_dialects(field: str) -> None:
    async with serving() as served:
        unloaded = await served.stub.RepositoryModelUnload(oip.RepositoryModelUnloadRequest(**{field: "identity"}))
        with pytest.raises(grpc.aio.AioRpcError, match="model 'identity' is unavailable: unloaded"):
            await served.stub.ModelInfer(fp32())
        loaded = await served.stub.RepositoryModelLoad(oip.RepositoryModelLoadRequest(**{field: "identity"}))
        await served.stub.ModelInfer(fp32())

    assert (unloaded.model_name, unloaded.isUnloaded) == ("identity", True)
    assert (loaded.model_name, loaded.isLoaded) == ("identity", True)


async def test_what_waits_for_a_model_is_answered_before_it_is_unloaded() -> None:
    async with serving() as served:
        runtime = served.loader.runtimes["identity"]
        runtime.gate = asyncio.Event()
        model = served.repository.get("identity")
        calls = [served.stub.ModelInfer(fp32([[number, 0]], id=str(number))) for number in range(5)]
        await eventually(lambda: model.batcher.num_waiting == 4)

        unloading = served.stub.RepositoryModelUnload(oip.RepositoryModelUnloadRequest(model_name="identity"))
        await eventually(lambda: not served.repository.is_model_ready("identity"))
        with pytest.raises(grpc.aio.AioRpcError, match="model 'identity' is unloading"):
            await served.stub.ModelInfer(fp32())
        runtime.gate.set()
        answers = [await call for call in calls]
        await unloading

    assert [decode_response(answer)["fp32_out"].array[0, 0] for answer in answers] == [0, 1, 2, 3, 4]
    assert runtime.is_unloaded


async def test_a_deployment_says_how_its_requests_are_joined(iris_folder: Path, tmp_path: Path) -> None:
    options = {"batching_delay_us": "300", "max_batch_size": "32"}
    deployed = ModelSpec("iris", "sklearn", iris_folder.as_uri(), options=options)

    async def on_change(*_: object) -> None:
        pass

    repository = ModelRepository([deployed], ModelLoader(tmp_path, RUNTIMES), on_change)
    await repository.load("iris")
    servicer = OpenInferenceServicer(repository, "1")
    async with serve_in_process((add_open_inference_to_server, servicer)) as channel:
        config = (await GRPCInferenceServiceStub(channel).ModelConfig(oip.ModelConfigRequest(name="iris"))).config
    await repository.close()

    assert (config.dynamic_batching.max_queue_delay_microseconds, config.max_batch_size) == (300, 32)


async def test_load_of_an_unknown_or_unnamed_model() -> None:
    async with serving() as served:
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await served.stub.RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name="nobody"))
        with pytest.raises(grpc.aio.AioRpcError) as unnamed:
            await served.stub.RepositoryModelUnload(oip.RepositoryModelUnloadRequest())

    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
    assert unnamed.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_what_is_not_offered_says_so() -> None:
    async with serving() as served:
        assert not (await served.stub.SystemSharedMemoryStatus(oip.SystemSharedMemoryStatusRequest())).regions
        assert not (await served.stub.CudaSharedMemoryStatus(oip.CudaSharedMemoryStatusRequest())).regions
        for call, request in (
            (served.stub.SystemSharedMemoryRegister, oip.SystemSharedMemoryRegisterRequest(name="r")),
            (served.stub.SystemSharedMemoryUnregister, oip.SystemSharedMemoryUnregisterRequest(name="r")),
            (served.stub.CudaSharedMemoryRegister, oip.CudaSharedMemoryRegisterRequest(name="r")),
            (served.stub.CudaSharedMemoryUnregister, oip.CudaSharedMemoryUnregisterRequest(name="r")),
            (served.stub.TraceSetting, oip.TraceSettingRequest()),
            (served.stub.LogSettings, oip.LogSettingsRequest()),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as refusal:
                await call(request)  # type: ignore[operator]
            assert refusal.value.code() is grpc.StatusCode.UNIMPLEMENTED
            assert refusal.value.details()

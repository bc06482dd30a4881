"""What the gateway answers itself over gRPC: OIP's server part, repository, statistics, explanations, reflection."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from mesh.oip import open_inference_pb2 as oip
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from mesh.v1 import explain_pb2
from mesh.v1.explain_pb2_grpc import ExplainServiceStub
from tests.gateway.conftest import Door


async def test_server_part(door: Door) -> None:
    stub = GRPCInferenceServiceStub(door.channel)

    assert (await stub.ServerLive(oip.ServerLiveRequest(), timeout=5)).live
    assert (await stub.ServerReady(oip.ServerReadyRequest(), timeout=5)).ready
    metadata = await stub.ServerMetadata(oip.ServerMetadataRequest(), timeout=5)
    assert metadata.name == "meshserve"
    assert "model_repository" in metadata.extensions


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [("echo", "", True), ("echo", "1", True), ("echo", "2", False), ("absent", "", False), ("nobody", "", False)],
)
async def test_model_is_ready_when_a_predictor_says_so(door: Door, name: str, version: str, ready: bool) -> None:
    answer = await GRPCInferenceServiceStub(door.channel).ModelReady(
        oip.ModelReadyRequest(name=name, version=version), timeout=5
    )

    assert answer.ready is ready


async def test_index_is_of_the_mesh(door: Door) -> None:
    stub = GRPCInferenceServiceStub(door.channel)

    everything = await stub.RepositoryIndex(oip.RepositoryIndexRequest(), timeout=5)
    ready = await stub.RepositoryIndex(oip.RepositoryIndexRequest(ready=True), timeout=5)

    assert [(model.name, model.version, model.state) for model in everything.models][:2] == [
        ("absent", "1", "UNAVAILABLE"),
        ("chat", "1", "READY"),
    ]
    assert [model.name for model in ready.models] == ["chat", "echo", "loose", "pair"]


async def test_the_parameters_of_a_load_reach_the_predictor(door: Door) -> None:
    parameters = {"version": oip.ModelRepositoryParameter(string_param="2")}

    await GRPCInferenceServiceStub(door.channel).RepositoryModelLoad(
        oip.RepositoryModelLoadRequest(model_name="echo", parameters=parameters), timeout=5
    )

    assert door.inference.load_requests[-1].parameters["version"].string_param == "2"


async def test_load_and_unload_in_both_dialects(door: Door) -> None:
    stub = GRPCInferenceServiceStub(door.channel)

    loaded = await stub.RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name="echo"), timeout=5)
    await stub.RepositoryModelLoad(oip.RepositoryModelLoadRequest(repository_name="chat"), timeout=5)
    await stub.RepositoryModelUnload(oip.RepositoryModelUnloadRequest(model_name="echo"), timeout=5)

    assert (loaded.model_name, loaded.isLoaded) == ("echo", True)
    assert (door.inference.loaded, door.inference.unloaded) == (["echo", "chat"], ["echo"])


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("nobody", grpc.StatusCode.NOT_FOUND),
        ("pair", grpc.StatusCode.NOT_FOUND),
        ("", grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_load_of_what_is_not_there(door: Door, name: str, code: grpc.StatusCode) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await GRPCInferenceServiceStub(door.channel).RepositoryModelLoad(
            oip.RepositoryModelLoadRequest(model_name=name), timeout=5
        )

    assert raised.value.code() is code


async def test_statistics_of_one_model_and_of_all(door: Door) -> None:
    stub = GRPCInferenceServiceStub(door.channel)

    one = await stub.ModelStatistics(oip.ModelStatisticsRequest(name="echo"), timeout=5)
    everything = await stub.ModelStatistics(oip.ModelStatisticsRequest(), timeout=5)

    assert [model.name for model in one.model_stats] == ["echo"]
    assert [model.name for model in everything.model_stats] == ["chat", "echo", "loose", "pair"]


async def test_shared_memory_is_empty_and_cannot_be_had(door: Door) -> None:
    stub = GRPCInferenceServiceStub(door.channel)

    assert not (await stub.SystemSharedMemoryStatus(oip.SystemSharedMemoryStatusRequest(), timeout=5)).regions
    assert not (await stub.CudaSharedMemoryStatus(oip.CudaSharedMemoryStatusRequest(), timeout=5)).regions
    for call in (
        stub.SystemSharedMemoryRegister(oip.SystemSharedMemoryRegisterRequest(), timeout=5),
        stub.TraceSetting(oip.TraceSettingRequest(), timeout=5),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await call
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "not served here" in (raised.value.details() or "")


async def test_explain_over_grpc(door: Door) -> None:
    request = explain_pb2.ExplainRequest(model_name="chat", text=explain_pb2.TextSubject(text="Why?"))

    response = await ExplainServiceStub(door.channel).Explain(request, timeout=5)

    assert response.explanations[0].attributions[0].name == "Why?"
    (record,) = await door.records()
    assert record["explain_calls"] == [{"method": "default", "predictor_calls": 3, "targets": ["answer"]}]


async def test_reflection_names_the_services(door: Door) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(door.channel)
    call = stub.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]), timeout=5)

    names = {service.name async for answer in call for service in answer.list_services_response.service}

    assert {"inference.GRPCInferenceService", "mesh.v1.LanguageModel", "mesh.v1.ExplainService"} <= names

"""A service that runs no model, as a server of the Open Inference Protocol."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest

from mesh.model_index import ModelIndex, add_ModelIndex_to_server
from mesh.oip import open_inference_pb2 as oip
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from mesh.testing import serve_in_process
from mesh.v1.registry_pb2 import SERVICE_KIND_PREDICTOR, Deployment, PredictorSpec, Replica, ServedModel
from mesh.view import MeshView


def predictor(id_: str, **models: bool) -> Replica:
    served = [ServedModel(name=name, version="1", ready=ready) for name, ready in models.items()]
    return Replica(id=id_, kind=SERVICE_KIND_PREDICTOR, address=f"{id_}:1", models=served)


VIEW = MeshView(
    deployments={
        name: Deployment(name=name, predictor=PredictorSpec(model_version="2")) for name in ("iris", "nowhere")
    },
    replicas={r.id: r for r in (predictor("r1", iris=True, llm=False), predictor("r2", iris=False))},
)

INDEX = ModelIndex("registry", view=lambda: VIEW, version="1.2")


async def test_server_answers_for_itself() -> None:
    async with serve_in_process((add_ModelIndex_to_server, INDEX)) as channel:
        stub = GRPCInferenceServiceStub(channel)
        assert (await stub.ServerLive(oip.ServerLiveRequest())).live
        assert (await stub.ServerReady(oip.ServerReadyRequest())).ready
        metadata = await stub.ServerMetadata(oip.ServerMetadataRequest())

    assert (metadata.name, metadata.version) == ("meshserve-registry", "1.2")


async def test_index_says_what_is_loaded_where() -> None:
    async with serve_in_process((add_ModelIndex_to_server, INDEX)) as channel:
        stub = GRPCInferenceServiceStub(channel)
        everything = await stub.RepositoryIndex(oip.RepositoryIndexRequest())
        ready = await stub.RepositoryIndex(oip.RepositoryIndexRequest(ready=True))

    assert [(m.name, m.version, m.state, m.reason) for m in everything.models] == [
        ("iris", "1", "READY", "1 of 2 replicas ready"),
        ("llm", "1", "LOADING", "0 of 1 replicas ready"),
        ("nowhere", "2", "UNAVAILABLE", "no replica holds it"),
    ]
    assert [m.name for m in ready.models] == ["iris"]


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [("iris", "", True), ("iris", "1", True), ("iris", "9", False), ("llm", "", False), ("none", "", False)],
)
async def test_model_is_ready_when_one_replica_is(name: str, version: str, ready: bool) -> None:
    async with serve_in_process((add_ModelIndex_to_server, INDEX)) as channel:
        answer = await GRPCInferenceServiceStub(channel).ModelReady(oip.ModelReadyRequest(name=name, version=version))

    assert answer.ready == ready


async def test_inference_is_unimplemented_with_a_sentence() -> None:
    async with serve_in_process((add_ModelIndex_to_server, INDEX)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await GRPCInferenceServiceStub(channel).ModelInfer(oip.ModelInferRequest(model_name="iris"))

    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert caught.value.details() == "ModelInfer is not served by the registry"

"""A service without models answers what it can of the Open Inference Protocol, and refuses the rest."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from mesh.model_index import ModelIndex, add_ModelIndex_to_server, index_of
from mesh.oip import open_inference_pb2 as oip
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from mesh.testing import serve_in_process
from mesh.v1.registry_pb2 import SERVICE_KIND_PREDICTOR, Deployment, PredictorSpec, Replica, ServedModel, VersionSpec
from mesh.view import MeshView

VIEW = MeshView(
    {
        name: Deployment(name=name, predictor=PredictorSpec(model_version="1"))
        for name in ("ready", "loading", "absent")
    },
    {
        id_: Replica(
            id=id_,
            kind=SERVICE_KIND_PREDICTOR,
            models=[
                ServedModel(name="ready", version="2", ready=is_ready),
                ServedModel(name="loading", version="1", ready=False),
            ],
        )
        for id_, is_ready in (("a", True), ("b", False))
    },
)


@pytest.fixture
async def stub() -> AsyncIterator[GRPCInferenceServiceStub]:
    index = ModelIndex("explainer", view=lambda: VIEW, version="7", is_ready=lambda: False)
    async with serve_in_process((add_ModelIndex_to_server, index)) as channel:
        yield GRPCInferenceServiceStub(channel)


def test_the_index_tells_ready_loading_and_absent_models_apart() -> None:
    assert [(e.name, e.version, e.state, e.reason) for e in index_of(VIEW)] == [
        ("absent", "1", "UNAVAILABLE", "no replica holds it"),
        ("loading", "1", "LOADING", "0 of 2 replicas ready"),
        ("ready", "2", "READY", "1 of 2 replicas ready"),
    ]


async def test_the_service_answers_for_itself(stub: GRPCInferenceServiceStub) -> None:
    assert (await stub.ServerLive(oip.ServerLiveRequest())).live
    assert not (await stub.ServerReady(oip.ServerReadyRequest())).ready
    metadata = await stub.ServerMetadata(oip.ServerMetadataRequest())
    assert (metadata.name, metadata.version, metadata.extensions) == ("meshserve-explainer", "7", ["model_repository"])


async def test_the_index_can_be_asked_for_ready_models_only(stub: GRPCInferenceServiceStub) -> None:
    index = await stub.RepositoryIndex(oip.RepositoryIndexRequest(ready=True))

    assert [entry.name for entry in index.models] == ["ready"]


@pytest.mark.parametrize(
    ("name", "version", "ready"),
    [("ready", "", True), ("ready", "2", True), ("ready", "1", False), ("loading", "", False), ("ghost", "", False)],
)
async def test_models_are_ready_where_a_predictor_says_so(
    stub: GRPCInferenceServiceStub, name: str, version: str, ready: bool
) -> None:
    assert (await stub.ModelReady(oip.ModelReadyRequest(name=name, version=version))).ready is ready


async def test_what_only_models_answer_is_refused_with_a_sentence(stub: GRPCInferenceServiceStub) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ModelInfer(oip.ModelInferRequest(model_name="ready"))

    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert caught.value.details() == "ModelInfer is not served by the explainer"


def test_each_deployed_version_is_in_the_index() -> None:
    versions = [VersionSpec(model_version="1"), VersionSpec(model_version="3")]
    deployments = {
        name: Deployment(name=name, predictor=PredictorSpec(model_version="2", versions=versions)) for name in "ab"
    }
    models = [ServedModel(name="a", version="2", ready=True), ServedModel(name="a", version="1", ready=False)]
    view = MeshView(deployments, {"p": Replica(id="p", kind=SERVICE_KIND_PREDICTOR, models=models)})

    assert [(entry.name, entry.version, entry.state) for entry in index_of(view)] == [
        ("a", "1", "LOADING"),
        ("a", "2", "READY"),
        ("a", "3", "UNAVAILABLE"),
        ("b", "1", "UNAVAILABLE"),
        ("b", "2", "UNAVAILABLE"),
        ("b", "3", "UNAVAILABLE"),
    ]

"""Load and unload reach every predictor; one that knows the model is enough."""

from __future__ import annotations

import pytest

from gateway.repository import RepositoryControl
from mesh.errors import NotFound, Unavailable
from mesh.oip.open_inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from mesh.testing import serve_on_free_port
from mesh.v1.registry_pb2 import SERVICE_KIND_PREDICTOR, Replica
from mesh.view import MeshView
from tests.gateway.fake_mesh import FakeInference


def control(*addresses: str) -> RepositoryControl:
    replicas = {address: Replica(id=address, kind=SERVICE_KIND_PREDICTOR, address=address) for address in addresses}
    return RepositoryControl(lambda: MeshView(replicas=replicas), request_timeout_s=5)


async def test_every_predictor_is_told() -> None:
    first, second = FakeInference(), FakeInference()
    async with (
        serve_on_free_port((add_GRPCInferenceServiceServicer_to_server, first)) as one,
        serve_on_free_port((add_GRPCInferenceServiceServicer_to_server, second)) as other,
    ):
        await control(one, other).load("echo")
        await control(one, other).unload("echo")

    assert first.loaded == second.loaded == first.unloaded == second.unloaded == ["echo"]


async def test_model_that_no_predictor_knows_is_not_found() -> None:
    async with serve_on_free_port((add_GRPCInferenceServiceServicer_to_server, FakeInference())) as one:
        with pytest.raises(NotFound):
            await control(one).load("pair")


async def test_predictor_that_cannot_be_reached_is_told_of() -> None:
    async with serve_on_free_port((add_GRPCInferenceServiceServicer_to_server, FakeInference())) as one:
        with pytest.raises(Unavailable):
            await control(one, "127.0.0.1:1").load("echo")


async def test_mesh_without_predictors_is_unavailable() -> None:
    with pytest.raises(Unavailable, match="no predictor"):
        await control().load("echo")

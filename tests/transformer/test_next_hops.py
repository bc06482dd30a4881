"""The next hop of the transformer: where replicas have one version each, those are asked that have the right one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass

import pytest

from mesh.infer_stream import Model
from mesh.oip import open_inference_pb2 as oip
from mesh.oip.open_inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from mesh.pool import EndpointPool
from mesh.testing import serve_on_free_port
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.language_model_pb2_grpc import add_LanguageModelServicer_to_server
from mesh.v1.registry_pb2 import SERVICE_KIND_PREDICTOR, Deployment, Replica, ServedModel
from mesh.view import MeshView
from tests.gateway.traffic_rig import VersionedPredictor
from transformer.next_hops import NextHops

ROUNDS = 6


@dataclass
class Hops:
    """predictors: by the one version that each has."""

    next_hops: NextHops
    predictors: dict[str, VersionedPredictor]


@pytest.fixture
async def hops() -> AsyncIterator[Hops]:
    predictors = {version: VersionedPredictor((version,)) for version in "12"}
    replicas = {}
    async with AsyncExitStack() as stack:
        for version, predictor in predictors.items():
            address = await stack.enter_async_context(
                serve_on_free_port(
                    (add_GRPCInferenceServiceServicer_to_server, predictor),
                    (add_LanguageModelServicer_to_server, predictor),
                )
            )
            models = [ServedModel(name="m", version=version, ready=True)]
            replicas[address] = Replica(id=address, kind=SERVICE_KIND_PREDICTOR, address=address, models=models)
        view = MeshView({"m": Deployment(name="m")}, replicas)
        pool = EndpointPool(lambda: view)
        stack.push_async_callback(pool.close)
        yield Hops(NextHops(pool, default_timeout_s=10), predictors)


@pytest.mark.parametrize("version", ["1", "2"])
async def test_calls_go_to_replicas_that_have_the_version(hops: Hops, version: str) -> None:
    infer = oip.ModelInferRequest(model_name="m", model_version=version).SerializeToString()

    async def feed() -> AsyncIterator[bytes]:
        yield infer

    for _ in range(ROUNDS):
        request = lm.GenerateRequest(model_name="m", model_version=version, text="say")
        texts = [response.text async for response in hops.next_hops.generate(request)]
        assert "".join(texts) == f"version {version}"
        answer = await hops.next_hops.infer_bytes("ModelInfer", Model("m", version), infer)
        assert oip.ModelInferResponse.FromString(answer).model_version == version
        async with aclosing(hops.next_hops.stream_infer_bytes(Model("m", version), feed)) as answers:
            streamed = [oip.ModelStreamInferResponse.FromString(one) async for one in answers]
        assert [one.infer_response.model_version for one in streamed] == [version]

    [other] = set(hops.predictors) - {version}
    assert hops.predictors[other].asked == []


async def test_calls_without_a_version_go_to_any(hops: Hops) -> None:
    request = oip.ModelInferRequest(model_name="m").SerializeToString()

    for _ in range(40):
        await hops.next_hops.infer_bytes("ModelInfer", Model("m"), request)

    assert all(predictor.asked for predictor in hops.predictors.values())

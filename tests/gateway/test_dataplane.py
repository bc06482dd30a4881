"""What the gateway does whatever the front: readiness, the index, the first hop, and cancels."""

from __future__ import annotations

import pytest

from gateway.dataplane import Dataplane
from gateway.exchange import Recorder
from mesh.deployments import is_language_model
from mesh.errors import InvalidInput, ModelNotFound, NotFound, Unavailable
from mesh.pool import EndpointPool
from mesh.testing import serve_on_free_port
from mesh.v1 import explain_pb2
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.explain_pb2_grpc import add_ExplainServiceServicer_to_server
from mesh.v1.language_model_pb2_grpc import add_LanguageModelServicer_to_server
from mesh.v1.registry_pb2 import (
    SERVICE_KIND_EXPLAINER,
    SERVICE_KIND_PREDICTOR,
    SERVICE_KIND_TRANSFORMER,
    Deployment,
    ExplainerSpec,
    PredictorSpec,
    Replica,
    ServedModel,
    ServiceKind,
    TransformerSpec,
    VersionSpec,
)
from mesh.view import MeshView
from tests.gateway.fake_language_model import FakeLanguageModel
from tests.gateway.fake_mesh import FakeExplainer

LLM = PredictorSpec(model_format="llm")
RECORDER = Recorder([], max_payload_bytes=1000)


def replica(kind: ServiceKind.ValueType, address: str = "127.0.0.1:1", **models: str) -> Replica:
    served = [ServedModel(name=name, version=version, ready=True) for name, version in models.items()]
    return Replica(id=f"{kind}@{address}", kind=kind, address=address, models=served)


def view(deployments: list[Deployment], *replicas: Replica) -> MeshView:
    return MeshView({one.name: one for one in deployments}, {one.id: one for one in replicas})


def dataplane(known: MeshView) -> Dataplane:
    return Dataplane(EndpointPool(lambda: known), lambda: known, request_timeout_s=5)


def test_readiness_is_what_predictors_announce() -> None:
    known = view(
        [Deployment(name="a"), Deployment(name="b")],
        replica(SERVICE_KIND_PREDICTOR, a="2", gone="1"),
    )
    plane = dataplane(known)

    assert plane.is_ready("a")
    assert plane.is_ready("a", "2")
    assert not plane.is_ready("a", "1")
    assert not plane.is_ready("b")
    assert not plane.is_ready("gone"), "announced, and not deployed"
    assert [(one.name, one.state) for one in plane.index()] == [("a", "READY"), ("b", "UNAVAILABLE")]
    assert [one.name for one in plane.index(only_ready=True)] == ["a"]


def test_the_index_has_each_version_and_the_deployed_one_first() -> None:
    versions = [VersionSpec(model_version="1"), VersionSpec(model_version="9")]
    deployment = Deployment(name="a", predictor=PredictorSpec(model_version="2", versions=versions))
    models = [ServedModel(name="a", version=version, ready=version != "2") for version in "12"]
    plane = dataplane(view([deployment], Replica(id="p", kind=SERVICE_KIND_PREDICTOR, models=models)))

    assert [(one.version, one.state, one.reason) for one in plane.index()] == [
        ("2", "UNAVAILABLE", "no predictor has it ready"),
        ("1", "READY", ""),
        ("9", "UNAVAILABLE", "no predictor has it ready"),
    ]
    assert [one.version for one in plane.index(only_ready=True)] == ["1"]
    assert not plane.is_ready("a")


def test_deployment_is_noted_once_it_is_found() -> None:
    plane = dataplane(view([Deployment(name="a")]))

    with RECORDER.exchange("grpc", "/x") as exchange:
        with pytest.raises(ModelNotFound):
            plane.deployment("stranger", exchange)
        assert exchange.deployment is None
        plane.deployment("a", exchange)
        assert exchange.deployment == "a"


def test_text_is_asked_of_language_models_only() -> None:
    known = view([Deployment(name="chat", predictor=LLM), Deployment(name="iris")])

    with RECORDER.exchange("grpc", "/x") as exchange:
        assert is_language_model(dataplane(known).language_model("chat", exchange))
        with pytest.raises(InvalidInput, match="'iris' does not generate text"):
            dataplane(known).language_model("iris", exchange)


async def test_generation_goes_through_the_transformer_when_there_is_one() -> None:
    model = FakeLanguageModel()
    deployment = Deployment(name="chat", predictor=LLM, transformer=TransformerSpec())
    async with serve_on_free_port((add_LanguageModelServicer_to_server, model)) as address:
        plane = dataplane(view([deployment], replica(SERVICE_KIND_TRANSFORMER, address)))
        with RECORDER.exchange("grpc", "/x") as exchange:
            request = lm.GenerateRequest(model_name="chat", text="hi")
            texts = [message.text async for message in plane.generate(request, exchange)]

    assert "".join(texts) == "Hello wörld!"
    assert exchange.generations[0].record()["output"]["token_ids"] == [100, 101, 102]


@pytest.mark.parametrize("has_transformer", [True, False])
async def test_explanations_go_to_the_transformer_or_else_to_the_explainer(has_transformer: bool) -> None:
    explainer = FakeExplainer()
    deployment = Deployment(name="chat", predictor=LLM, explainer=ExplainerSpec(method="mine"))
    if has_transformer:
        deployment.transformer.SetInParent()
    kind = SERVICE_KIND_TRANSFORMER if has_transformer else SERVICE_KIND_EXPLAINER
    async with serve_on_free_port((add_ExplainServiceServicer_to_server, explainer)) as address:
        plane = dataplane(view([deployment], replica(kind, address)))
        with RECORDER.exchange("grpc", "/x") as exchange:
            request = explain_pb2.ExplainRequest(model_name="chat", text=explain_pb2.TextSubject(text="Why?"))
            response = await plane.explain(request, exchange)

    assert response.method == "mine"


async def test_deployment_without_an_explainer_is_not_found() -> None:
    plane = dataplane(view([Deployment(name="iris")]))

    with RECORDER.exchange("grpc", "/x") as exchange, pytest.raises(NotFound, match="has no explainer"):
        await plane.explain(explain_pb2.ExplainRequest(model_name="iris"), exchange)


async def test_nobody_there_is_unavailable() -> None:
    plane = dataplane(view([Deployment(name="iris")]))

    with RECORDER.exchange("grpc", "/x") as exchange, pytest.raises(Unavailable, match="'iris'"):
        await plane.forward("/a.B/C", "iris", b"", exchange)

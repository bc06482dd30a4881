"""Fixtures of the transformer's tests: template files, and workers that render."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from prometheus_client import CollectorRegistry

from mesh.errors import Internal, MeshError, ModelNotFound
from mesh.model_index import ModelIndex
from mesh.oip import open_inference_pb2 as oip
from mesh.oip.open_inference_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)
from mesh.pool import EndpointPool
from mesh.testing import serve_in_process, serve_on_free_port
from mesh.v1 import explain_pb2
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.explain_pb2_grpc import ExplainServiceServicer, add_ExplainServiceServicer_to_server
from mesh.v1.language_model_pb2_grpc import LanguageModelServicer, add_LanguageModelServicer_to_server
from mesh.v1.registry_pb2 import (
    SERVICE_KIND_EXPLAINER,
    SERVICE_KIND_PREDICTOR,
    Deployment,
    ExplainerSpec,
    PredictorSpec,
    Replica,
    ServedModel,
    TransformerSpec,
)
from mesh.view import MeshView
from transformer.descriptions import Descriptions
from transformer.infer_proxy import InferProxy, add_InferProxy_to_server
from transformer.metrics import TransformerMetrics
from transformer.next_hops import NextHops
from transformer.pipeline import Pipeline
from transformer.prompts import Prompts
from transformer.servicer import TransformerExplainService, TransformerLanguageModel
from transformer.steps.prompt import StepServices
from transformer.template_runner import TemplateLimits, TemplateRunnerPool


@pytest.fixture(scope="session")
def templates() -> dict[str, str]:
    """SmolLM2's own template, and four in the manner of other families, by name."""
    folder = Path(__file__).parent / "templates"
    return {path.stem: path.read_text(encoding="utf-8") for path in folder.glob("*.jinja")}


@pytest.fixture
async def runner() -> AsyncIterator[TemplateRunnerPool]:
    """A running pool of one template worker with tight limits."""
    pool = TemplateRunnerPool(TemplateLimits(cpu_s=0.5, memory_bytes=256 << 20, output_chars=100_000), max_waiting=4)
    await pool.start()
    yield pool
    await pool.close()


class EchoPredictor(GRPCInferenceServiceServicer, LanguageModelServicer):
    """Answers what it is told to, or with what it was asked, and keeps the requests; can be told to fail or to hang."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.describe_calls = 0
        self.num_streams = 0
        self.description = lm.DescribeModelResponse(model_digest="d1", bos_token="<s>", eos_token="</s>")
        self.answered_digest = "d1"
        self.timeouts_s: list[float | None] = []
        self.metadata: list[dict[str, Any]] = []
        self.answers = [
            lm.GenerateResponse(text="Hel", token_ids=[1]),
            lm.GenerateResponse(text="lo", token_ids=[2], finish_reason=lm.FINISH_REASON_STOP),
        ]
        self.error: MeshError | None = None
        self.hangs = False
        self.was_cancelled = asyncio.Event()

    def _note(self, request: Any, context: Any) -> None:
        self.requests.append(request)
        self.timeouts_s.append(context.time_remaining())
        self.metadata.append(dict(context.invocation_metadata()))

    async def DescribeModel(self, request: lm.DescribeModelRequest, context: Any) -> lm.DescribeModelResponse:
        self.describe_calls += 1
        return self.description

    async def Generate(self, request: lm.GenerateRequest, context: Any) -> AsyncIterator[lm.GenerateResponse]:
        self._note(request, context)
        if self.error is not None:
            raise self.error
        start = lm.GenerationStart(model_name=request.model_name, model_digest=self.answered_digest, seed=4)
        yield lm.GenerateResponse(start=start)
        if self.hangs:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.was_cancelled.set()
                raise
        for answer in self.answers:
            yield answer

    async def Score(self, request: lm.ScoreRequest, context: Any) -> lm.ScoreResponse:
        self._note(request, context)
        return lm.ScoreResponse(model_name=request.model_name)

    async def Tokenize(self, request: lm.TokenizeRequest, context: Any) -> lm.TokenizeResponse:
        self._note(request, context)
        return lm.TokenizeResponse(token_ids=[len(request.text)])

    async def Detokenize(self, request: lm.DetokenizeRequest, context: Any) -> lm.DetokenizeResponse:
        self._note(request, context)
        return lm.DetokenizeResponse(text=str(list(request.token_ids)))

    async def ModelReady(self, request: oip.ModelReadyRequest, context: Any) -> oip.ModelReadyResponse:
        return oip.ModelReadyResponse(ready=True)

    async def ModelMetadata(self, request: oip.ModelMetadataRequest, context: Any) -> oip.ModelMetadataResponse:
        if request.version == "9":
            raise ModelNotFound("model 'llm' has no version '9'; versions: 1")
        return oip.ModelMetadataResponse(name=request.name, platform="echo")

    async def ModelConfig(self, request: oip.ModelConfigRequest, context: Any) -> oip.ModelConfigResponse:
        return oip.ModelConfigResponse(config=oip.ModelConfig(name=request.name, backend="echo"))

    async def ModelInfer(self, request: oip.ModelInferRequest, context: Any) -> oip.ModelInferResponse:
        self._note(request, context)
        return oip.ModelInferResponse(
            model_name=request.model_name, id=request.id, raw_output_contents=request.raw_input_contents
        )

    async def ModelStreamInfer(
        self, requests: AsyncIterator[oip.ModelInferRequest], context: Any
    ) -> AsyncIterator[oip.ModelStreamInferResponse]:
        self.num_streams += 1
        async for request in requests:
            if request.id == "die":
                raise Internal("the model broke")
            for part in range(2):
                response = oip.ModelInferResponse(model_name=request.model_name, id=f"{request.id}.{part}")
                yield oip.ModelStreamInferResponse(infer_response=response)


class EchoExplainer(ExplainServiceServicer):
    """Keeps the requests."""

    def __init__(self) -> None:
        self.requests: list[explain_pb2.ExplainRequest] = []

    async def Explain(self, request: explain_pb2.ExplainRequest, context: Any) -> explain_pb2.ExplainResponse:
        self.requests.append(request)
        return explain_pb2.ExplainResponse(model_name=request.model_name, method="echo")


@dataclass
class Rig:
    """A running transformer, what is behind it, and a client of it."""

    predictor: EchoPredictor
    explainer: EchoExplainer
    channel: grpc.aio.Channel
    metrics: CollectorRegistry
    deployments: dict[str, Deployment]
    replicas: dict[str, Replica]


def _deployments() -> dict[str, Deployment]:
    predictor = PredictorSpec(model_format="llm", model_version="1")
    chat = TransformerSpec(steps=["chat_template"])
    made = [
        Deployment(name="llm", predictor=predictor, transformer=chat, explainer=ExplainerSpec()),
        Deployment(name="plain", predictor=predictor, transformer=TransformerSpec()),
        Deployment(name="wrong", predictor=predictor, transformer=TransformerSpec(steps=["magic"])),
        Deployment(name="away", predictor=predictor, transformer=chat),
    ]
    return {deployment.name: deployment for deployment in made}


@pytest.fixture
async def rig(runner: TemplateRunnerPool, templates: dict[str, str]) -> AsyncIterator[Rig]:
    """Deployments: llm (SmolLM2's template), plain (no step), wrong (unknown step), away (no predictor)."""
    predictor, explainer = EchoPredictor(), EchoExplainer()
    predictor.description.chat_template = templates["smollm2"]
    view = MeshView(_deployments(), {})
    pool = EndpointPool(lambda: view)
    next_hops = NextHops(pool, default_timeout_s=60.0)
    descriptions = Descriptions(next_hops.describe)
    metrics = CollectorRegistry()
    services = StepServices(templates=runner, wall_time_s=time.time)
    pipeline = Pipeline(next_hops, Prompts(descriptions, services, TransformerMetrics(metrics)), descriptions)
    index = ModelIndex("transformer", view=lambda: view, version="7")
    async with (
        serve_on_free_port(
            (add_GRPCInferenceServiceServicer_to_server, predictor),
            (add_LanguageModelServicer_to_server, predictor),
        ) as predictor_address,
        serve_on_free_port((add_ExplainServiceServicer_to_server, explainer)) as explainer_address,
        serve_in_process(
            (add_LanguageModelServicer_to_server, TransformerLanguageModel(pipeline)),
            (add_ExplainServiceServicer_to_server, TransformerExplainService(pipeline)),
            (add_InferProxy_to_server, InferProxy(next_hops, index)),
        ) as channel,
    ):
        models = [ServedModel(name=name, version="1", ready=True) for name in ("llm", "plain", "wrong")]
        replicas = {
            "p": Replica(id="p", kind=SERVICE_KIND_PREDICTOR, address=predictor_address, models=models),
            "e": Replica(id="e", kind=SERVICE_KIND_EXPLAINER, address=explainer_address),
        }
        deployments = _deployments()
        view = MeshView(deployments, replicas)
        yield Rig(predictor, explainer, channel, metrics, deployments, replicas)
        await pool.close()

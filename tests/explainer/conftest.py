"""Fixtures of the explainer's tests: a predictor whose arithmetic is known, and an explainer in front of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import grpc.aio
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from explainer.explanations import Explanations
from explainer.metrics import ExplainerMetrics
from explainer.predict_fn import BatchLimits
from explainer.servicer import ExplainerServicer
from mesh.channel import open_channel
from mesh.errors import PromptTooLong
from mesh.oip import open_inference_pb2 as oip
from mesh.oip.open_inference_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)
from mesh.pool import EndpointPool
from mesh.tensors import Tensor, decode_request, encode_response
from mesh.testing import serve_on_free_port
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.explain_pb2_grpc import ExplainServiceStub, add_ExplainServiceServicer_to_server
from mesh.v1.language_model_pb2_grpc import LanguageModelServicer, add_LanguageModelServicer_to_server
from mesh.v1.registry_pb2 import (
    SERVICE_KIND_PREDICTOR,
    Deployment,
    ExplainerSpec,
    PredictorSpec,
    Replica,
    ServedModel,
)
from mesh.view import MeshView

WORD_SCORES = {"capital": 2.0, "France?": 3.5, "not": -1.25}
CLASS_WEIGHTS = np.array([[1.0, 0.0, 0.5, 0.0], [0.0, 1.0, -0.5, 0.25]])


class KnownPredictor(GRPCInferenceServiceServicer, LanguageModelServicer):
    """Scores a prompt by the words in it, and a row by CLASS_WEIGHTS; both are additive. Records what it is asked."""

    def __init__(self) -> None:
        self.score_requests: list[lm.ScoreRequest] = []
        self.infer_requests: list[oip.ModelInferRequest] = []
        self.generate_requests: list[lm.GenerateRequest] = []
        self.answer = (("Par", [5]), ("is", [6]), ("", [2]))
        self.finish_reason = lm.FINISH_REASON_STOP
        self.outputs: tuple[str, ...] = ("label", "probabilities")
        self.config = oip.ModelConfig(name="table", max_batch_size=0)
        self.scoring = asyncio.Event()
        self.hangs = False
        self.was_cancelled = asyncio.Event()

    async def Score(self, request: lm.ScoreRequest, context: Any) -> lm.ScoreResponse:
        self.score_requests.append(request)
        self.scoring.set()
        if self.hangs:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.was_cancelled.set()
                raise
        response = lm.ScoreResponse(model_name=request.model_name, model_version="3")
        for item in request.items:
            if len(item.text) > 10_000:
                raise PromptTooLong("prompt has 5120 tokens; model 'm' takes 4096")
            score = -10.0 + sum(WORD_SCORES.get(word, 0.0) for word in item.text.split())
            response.results.add(token_ids=[1, 2], logprobs=[score / 4, score * 3 / 4])
        return response

    async def Generate(self, request: lm.GenerateRequest, context: Any) -> AsyncIterator[lm.GenerateResponse]:
        self.generate_requests.append(request)
        yield lm.GenerateResponse(start=lm.GenerationStart(model_name=request.model_name))
        for text, token_ids in self.answer:
            yield lm.GenerateResponse(text=text, token_ids=token_ids)
        yield lm.GenerateResponse(finish_reason=self.finish_reason)

    async def ModelConfig(self, request: oip.ModelConfigRequest, context: Any) -> oip.ModelConfigResponse:
        return oip.ModelConfigResponse(config=self.config)

    async def ModelInfer(self, request: oip.ModelInferRequest, context: Any) -> oip.ModelInferResponse:
        self.infer_requests.append(request)
        rows = decode_request(request)["input"].array
        scores = rows.astype(np.float64) @ CLASS_WEIGHTS.T
        tensors = {
            "label": Tensor("label", "INT64", 10 + scores.argmax(axis=1)),
            "probabilities": Tensor("probabilities", "FP64", scores),
            "value": Tensor("value", "FP32", scores[:, 0].astype(np.float32)),
            "total": Tensor("total", "FP64", np.array([scores.sum()])),
        }
        response = oip.ModelInferResponse(model_name=request.model_name, model_version="4")
        encode_response(response, [tensors[name] for name in self.outputs], raw=True)
        return response


@dataclass
class Rig:
    """A running explainer, the predictor behind it, and a client of it."""

    predictor: KnownPredictor
    stub: ExplainServiceStub
    channel: grpc.aio.Channel
    metrics: CollectorRegistry
    deployments: dict[str, Deployment]
    replicas: dict[str, Replica] = field(default_factory=dict)


def deployment(name: str, *, method: str | None = "") -> Deployment:
    made = Deployment(name=name, predictor=PredictorSpec(model_format="llm"))
    if method is not None:
        made.explainer.CopyFrom(ExplainerSpec(method=method))
    return made


@pytest.fixture
def limits() -> BatchLimits:
    """Small ones, so that few words already take several calls."""
    return BatchLimits(max_rows=1024, max_prompts=4, timeout_s=20.0)


@pytest.fixture
async def rig(limits: BatchLimits) -> AsyncIterator[Rig]:
    predictor = KnownPredictor()
    deployments = {name: deployment(name) for name in ("llm", "table")} | {"bare": deployment("bare", method=None)}
    replicas: dict[str, Replica] = {}
    pool = EndpointPool(lambda: MeshView(deployments, replicas))
    metrics = CollectorRegistry()
    explanations = Explanations(pool, limits, ExplainerMetrics(metrics), max_running=2, seed=0)
    async with (
        serve_on_free_port(
            (add_GRPCInferenceServiceServicer_to_server, predictor),
            (add_LanguageModelServicer_to_server, predictor),
        ) as predictor_address,
        serve_on_free_port((add_ExplainServiceServicer_to_server, ExplainerServicer(explanations))) as address,
        open_channel(address) as channel,
    ):
        served = [ServedModel(name=name, version="1", ready=True) for name in deployments]
        replicas["p"] = Replica(id="p", kind=SERVICE_KIND_PREDICTOR, address=predictor_address, models=served)
        yield Rig(predictor, ExplainServiceStub(channel), channel, metrics, deployments, replicas)
        await pool.close()


@pytest.fixture
def table_config() -> Callable[..., oip.ModelConfig]:
    """A configuration with parameters as the predictor writes them: JSON lists."""

    def make(max_batch_size: int = 0, **parameters: object) -> oip.ModelConfig:
        config = oip.ModelConfig(name="table", max_batch_size=max_batch_size)
        for name, value in parameters.items():
            config.parameters[name].string_value = value if isinstance(value, str) else json.dumps(value)
        return config

    return make

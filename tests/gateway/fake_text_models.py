"""Models of texts behind a gateway for its tests: vectors and scores that follow from the words, and bad answers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from mesh.errors import InvalidInput, PromptTooLong
from mesh.oip import open_inference_pb2 as oip
from mesh.oip.open_inference_pb2_grpc import (
    GRPCInferenceServiceServicer,
    add_GRPCInferenceServiceServicer_to_server,
)
from mesh.tensors import Array, Tensor, decode_request, encode_response
from mesh.testing import serve_on_free_port
from tests.gateway.conftest import Door, open_door

Context = Any  # grpc.aio.ServicerContext, which cannot be subscripted

DIMENSIONS = 8
# Model → its inputs and outputs, name → (datatype, shape). `quiet` counts no tokens, `broken` loses a text.
EMBEDDING: Any = ({"text": ("BYTES", [-1])}, {"embedding": ("FP32", [-1, DIMENSIONS]), "num_tokens": ("INT64", [-1])})
RERANKING: Any = (
    {"query": ("BYTES", [-1]), "document": ("BYTES", [-1])},
    {"score": ("FP32", [-1]), "num_tokens": ("INT64", [-1])},
)
MODELS: dict[str, Any] = {
    "embed": EMBEDDING,
    "quiet": (EMBEDDING[0], {"embedding": ("FP32", [-1, DIMENSIONS])}),
    "broken": EMBEDDING,
    "rerank": RERANKING,
    "labels": (RERANKING[0], {"score": ("FP32", [-1, 3])}),
    "iris": ({"input": ("FP64", [-1, 4])}, {"label": ("INT64", [-1])}),
}
TOO_LONG, TOO_MANY = "too long", "too many"


def vector_of(text: str) -> Array:
    """Eight numbers that differ from text to text; of length one."""
    vector = np.random.default_rng(list(text.encode())).standard_normal(DIMENSIONS).astype(np.float32)
    return vector / np.linalg.norm(vector)


def score_of(query: str, document: str) -> float:
    """The share of the query's words that the document has."""
    words = set(query.split())
    return len(words & set(document.split())) / len(words)


@dataclass
class FakeTextModels(GRPCInferenceServiceServicer):
    """All models of MODELS; a text of two special ones is refused as the real predictor does it."""

    requests: list[oip.ModelInferRequest] = field(default_factory=list)

    async def ModelMetadata(self, request: oip.ModelMetadataRequest, context: Context) -> oip.ModelMetadataResponse:
        response = oip.ModelMetadataResponse(name=request.name, versions=["1"])
        inputs, outputs = MODELS[request.name]
        for add, tensors in ((response.inputs.add, inputs), (response.outputs.add, outputs)):
            for name, (datatype, shape) in tensors.items():
                add(name=name, datatype=datatype, shape=shape)
        return response

    async def ModelInfer(self, request: oip.ModelInferRequest, context: Context) -> oip.ModelInferResponse:
        self.requests.append(request)
        tensors = decode_request(request)
        texts = {name: [one.decode() for one in tensor.array.tolist()] for name, tensor in tensors.items()}
        (name, last) = list(texts.items())[-1]
        if TOO_LONG in last:
            element = f"{name}[{last.index(TOO_LONG)}]"
            raise PromptTooLong(f"{element} has 9 tokens; the model takes 8", field=element)
        if TOO_MANY in last:
            raise InvalidInput(f"input '{name}' has a batch of 9; the model takes at most 8", field="shape")
        response = oip.ModelInferResponse(model_name=request.model_name, model_version="1")
        encode_response(response, list(_outputs(request.model_name, list(texts.values()))), raw=True)
        return response


def _outputs(model: str, texts: list[list[str]]) -> Sequence[Tensor]:
    num_tokens = [sum(len(text.split()) for text in row) + 2 for row in zip(*texts, strict=True)]
    counted = Tensor("num_tokens", "INT64", np.array(num_tokens))
    if model == "rerank":
        scores = [score_of(query, document) for query, document in zip(*texts, strict=True)]
        return [Tensor("score", "FP32", np.array(scores, dtype=np.float32)), counted]
    vectors = np.stack([vector_of(text) for text in texts[0]])
    if model == "broken":
        return [Tensor("embedding", "FP32", vectors[1:])]
    embedding = Tensor("embedding", "FP32", vectors)
    return [embedding] if model == "quiet" else [embedding, counted]


@asynccontextmanager
async def open_text_door(tmp_path: Path) -> AsyncIterator[tuple[Door, FakeTextModels]]:
    """A gateway in front of these models; `absent` is deployed, and no predictor has it."""
    models = FakeTextModels()
    async with serve_on_free_port((add_GRPCInferenceServiceServicer_to_server, models)) as address:
        deployments = [
            {"name": name, "predictor": {"model_format": "python", "storage_uri": f"file:///{name}"}}
            for name in (*MODELS, "absent")
        ]
        endpoints = tmp_path / "text_endpoints.yaml"
        predictor = {"address": address, "models": list(MODELS)}
        endpoints.write_text(yaml.safe_dump({"endpoints": {"predictor": [predictor]}, "deployments": deployments}))
        async with open_door(tmp_path, endpoints=endpoints) as door:
            yield door, models

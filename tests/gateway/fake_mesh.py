"""Services behind a gateway for its tests: small, real gRPC servers that say what they were asked."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mesh.errors import InvalidInput, ModelNotFound, NotFound, Unavailable
from mesh.oip import open_inference_pb2 as oip
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceServicer
from mesh.tensors import Tensor, decode_request, encode_response
from mesh.v1 import explain_pb2
from mesh.v1.explain_pb2_grpc import ExplainServiceServicer

Context = Any  # grpc.aio.ServicerContext, which cannot be subscripted


INPUTS = {"echo": [("input", "FP64", [-1, 4])], "pair": [("a", "INT64", [-1]), ("b", "FP32", [-1, 2])]}


@dataclass
class FakeInference(GRPCInferenceServiceServicer):
    """Gives each input back as the output of the same name."""

    requests: list[oip.ModelInferRequest] = field(default_factory=list)
    metadata_calls: int = 0
    load_requests: list[oip.RepositoryModelLoadRequest] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    unloaded: list[str] = field(default_factory=list)

    async def ModelInfer(self, request: oip.ModelInferRequest, context: Context) -> oip.ModelInferResponse:
        self.requests.append(request)
        return self._answer(request)

    def _answer(self, request: oip.ModelInferRequest) -> oip.ModelInferResponse:
        if request.model_version not in ("", "1"):
            raise ModelNotFound(f"model '{request.model_name}' has no version '{request.model_version}'")
        tensors = list(decode_request(request).values())
        if any(tensor.name == "bad" for tensor in tensors):
            raise InvalidInput("model 'echo' has no input 'bad'", field="inputs")
        if any(tensor.name == "infinite" for tensor in tensors):
            tensors = [Tensor("infinite", "FP64", np.array([1.5, np.nan, np.inf]))]
        response = oip.ModelInferResponse(model_name=request.model_name, model_version="1", id=request.id)
        encode_response(response, tensors, raw=bool(request.raw_input_contents))
        return response

    async def ModelStreamInfer(
        self, requests: AsyncIterator[oip.ModelInferRequest], context: Context
    ) -> AsyncIterator[oip.ModelStreamInferResponse]:
        async for request in requests:
            if request.id == "die":
                raise Unavailable("the replica went away")
            try:
                yield oip.ModelStreamInferResponse(infer_response=self._answer(request))
            except InvalidInput as error:
                yield oip.ModelStreamInferResponse(error_message=error.message)

    async def ModelMetadata(self, request: oip.ModelMetadataRequest, context: Context) -> oip.ModelMetadataResponse:
        self.metadata_calls += 1
        response = oip.ModelMetadataResponse(name=request.name, versions=["1"], platform="fake")
        for name, datatype, shape in INPUTS.get(request.name, []):
            response.inputs.add(name=name, datatype=datatype, shape=shape)
            response.outputs.add(name=name, datatype=datatype, shape=shape)
        return response

    async def ModelConfig(self, request: oip.ModelConfigRequest, context: Context) -> oip.ModelConfigResponse:
        return oip.ModelConfigResponse(config=oip.ModelConfig(name=request.name, backend="fake", max_batch_size=8))

    async def ModelStatistics(
        self, request: oip.ModelStatisticsRequest, context: Context
    ) -> oip.ModelStatisticsResponse:
        return oip.ModelStatisticsResponse(
            model_stats=[oip.ModelStatistics(name=request.name, version="1", inference_count=2**53 + 1)]
        )

    async def RepositoryModelLoad(
        self, request: oip.RepositoryModelLoadRequest, context: Context
    ) -> oip.RepositoryModelLoadResponse:
        if request.model_name == "pair":
            raise NotFound("model 'pair' is not in the repository")
        self.load_requests.append(request)
        self.loaded.append(request.model_name)
        return oip.RepositoryModelLoadResponse(model_name=request.model_name, isLoaded=True)

    async def RepositoryModelUnload(
        self, request: oip.RepositoryModelUnloadRequest, context: Context
    ) -> oip.RepositoryModelUnloadResponse:
        self.unloaded.append(request.model_name)
        return oip.RepositoryModelUnloadResponse(model_name=request.model_name, isUnloaded=True)


@dataclass
class FakeExplainer(ExplainServiceServicer):
    """One attribution per column, or one for the whole prompt."""

    requests: list[explain_pb2.ExplainRequest] = field(default_factory=list)

    async def Explain(self, request: explain_pb2.ExplainRequest, context: Context) -> explain_pb2.ExplainResponse:
        self.requests.append(request)
        response = explain_pb2.ExplainResponse(
            model_name=request.model_name, model_version="1", method=request.method or "default", predictor_calls=3
        )
        if request.HasField("text"):
            prompt = request.text.text or request.text.messages.messages[0].content
            response.explanations.add(
                target=request.text.target or "answer",
                score=-1.5,
                rendered_prompt=f"<user>{prompt}",
                attributions=[explain_pb2.Attribution(name=prompt, value=0.25, start=6, length=len(prompt))],
            )
            return response
        for row in decode_request(request.infer)["input"].array:
            response.explanations.add(
                target="0",
                score=float(row.sum()),
                base_score=0.0,
                attributions=[explain_pb2.Attribution(name=f"f{i}", value=float(v)) for i, v in enumerate(row)],
            )
        return response

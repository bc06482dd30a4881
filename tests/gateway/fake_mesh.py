"""Services behind a gateway for its tests: small, real gRPC servers that say what they were asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mesh.errors import InvalidInput, ModelNotFound, NotFound, Overloaded, PromptTooLong, Unavailable
from mesh.oip import open_inference_pb2 as oip
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceServicer
from mesh.tensors import Tensor, decode_request, encode_response
from mesh.v1 import explain_pb2
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.explain_pb2_grpc import ExplainServiceServicer
from mesh.v1.language_model_pb2_grpc import LanguageModelServicer

Context = Any  # grpc.aio.ServicerContext, which cannot be subscripted

DIGEST = "ab" * 32


@dataclass
class FakeLanguageModel(LanguageModelServicer):
    """Says `words`, one a message. What a prompt holds decides what goes wrong; see `Generate`."""

    words: tuple[str, ...] = ("Hello", " wörld", "!")
    requests: list[lm.GenerateRequest] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)
    deadlines: list[float | None] = field(default_factory=list)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    another_started: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def Generate(self, request: lm.GenerateRequest, context: Context) -> AsyncIterator[lm.GenerateResponse]:
        self.requests.append(request)
        self.metadata.append({str(key): str(value) for key, value in context.invocation_metadata() or ()})
        self.deadlines.append(context.time_remaining())
        text = request.text or "".join(message.content for message in request.messages.messages)
        if "too long" in text:
            raise PromptTooLong("prompt has 5120 tokens; model 'chat' takes 4096", field="messages")
        if "busy" in text:
            raise Overloaded("the queue is full", retry_after_s=3)
        (self.another_started if self.started.is_set() else self.started).set()
        try:
            async for response in self._say(request, text):
                yield response
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.set()
            raise

    async def _say(self, request: lm.GenerateRequest, text: str) -> AsyncIterator[lm.GenerateResponse]:
        rendered = f"<user>{text}</user>" if request.HasField("messages") else ""
        yield lm.GenerateResponse(
            start=lm.GenerationStart(
                model_name=request.model_name,
                model_version="1",
                model_digest=DIGEST,
                seed=request.sampling.seed or 42,
                prompt_tokens=5,
                rendered_prompt=rendered,
                replica="fake:1",
            )
        )
        for index, word in enumerate(self.words):
            if "once another started" in text:
                await self.another_started.wait()
            if "fails midway" in text and index == 1:
                raise Unavailable("the replica went away")
            if "waits" in text and index == 1:
                await self.gate.wait()
            yield lm.GenerateResponse(text=word, token_ids=[100 + index], logprobs=self._logprobs(request, index, word))
        yield lm.GenerateResponse(
            finish_reason=lm.FINISH_REASON_STOP,
            usage=lm.Usage(prompt_tokens=5, cached_tokens=2, output_tokens=len(self.words)),
            timings=lm.Timings(queue_s=0.001, first_token_s=0.01, total_s=0.02),
        )

    def _logprobs(self, request: lm.GenerateRequest, index: int, word: str) -> list[lm.PositionLogprobs]:
        if not request.sampling.HasField("logprobs"):
            return []
        chosen = lm.TokenLogprob(token_id=100 + index, text=word, logprob=-0.5, token_bytes=word.encode())
        return [lm.PositionLogprobs(chosen=chosen, top=[chosen] * request.sampling.logprobs)]

    async def Score(self, request: lm.ScoreRequest, context: Context) -> lm.ScoreResponse:
        return lm.ScoreResponse(model_name=request.model_name, model_version="1")

    async def Tokenize(self, request: lm.TokenizeRequest, context: Context) -> lm.TokenizeResponse:
        return lm.TokenizeResponse(token_ids=[1, 2, 3])

    async def DescribeModel(self, request: lm.DescribeModelRequest, context: Context) -> lm.DescribeModelResponse:
        return lm.DescribeModelResponse(model_name=request.model_name, model_version="1", vocab_size=9)


INPUTS = {"echo": [("input", "FP64", [-1, 4])], "pair": [("a", "INT64", [-1]), ("b", "FP32", [-1, 2])]}


@dataclass
class FakeInference(GRPCInferenceServiceServicer):
    """Gives each input back as the output of the same name."""

    requests: list[oip.ModelInferRequest] = field(default_factory=list)
    metadata_calls: int = 0
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

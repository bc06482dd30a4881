"""The gRPC front of LanguageModel and ExplainService: each method is one call of the pipeline."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc.aio

from mesh.v1 import explain_pb2
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.explain_pb2_grpc import ExplainServiceServicer
from mesh.v1.language_model_pb2_grpc import LanguageModelServicer
from transformer.pipeline import Pipeline


class TransformerLanguageModel(LanguageModelServicer):
    """`mesh.v1.LanguageModel` in front of a predictor's."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    def Generate(
        self,
        request: lm.GenerateRequest,
        context: grpc.aio.ServicerContext[lm.GenerateRequest, lm.GenerateResponse],
    ) -> AsyncIterator[lm.GenerateResponse]:
        return self._pipeline.generate(request)

    async def Score(
        self, request: lm.ScoreRequest, context: grpc.aio.ServicerContext[lm.ScoreRequest, lm.ScoreResponse]
    ) -> lm.ScoreResponse:
        return await self._pipeline.score(request)

    async def Tokenize(
        self, request: lm.TokenizeRequest, context: grpc.aio.ServicerContext[lm.TokenizeRequest, lm.TokenizeResponse]
    ) -> lm.TokenizeResponse:
        return await self._pipeline.tokenize(request)

    async def Detokenize(
        self,
        request: lm.DetokenizeRequest,
        context: grpc.aio.ServicerContext[lm.DetokenizeRequest, lm.DetokenizeResponse],
    ) -> lm.DetokenizeResponse:
        return await self._pipeline.detokenize(request)

    async def DescribeModel(
        self,
        request: lm.DescribeModelRequest,
        context: grpc.aio.ServicerContext[lm.DescribeModelRequest, lm.DescribeModelResponse],
    ) -> lm.DescribeModelResponse:
        return await self._pipeline.describe(request)


class TransformerExplainService(ExplainServiceServicer):
    """`mesh.v1.ExplainService` in front of an explainer's."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline

    async def Explain(
        self,
        request: explain_pb2.ExplainRequest,
        context: grpc.aio.ServicerContext[explain_pb2.ExplainRequest, explain_pb2.ExplainResponse],
    ) -> explain_pb2.ExplainResponse:
        return await self._pipeline.explain(request)

"""Calls to the predictors and explainers behind the transformer: the one place here that knows their stubs.

Each call carries what is left of the caller's deadline, or the default when the caller set none.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

import grpc.aio

from mesh import context, generation_stream
from mesh.infer_stream import Feed, Model
from mesh.pool import EndpointPool
from mesh.request_hints import generation_hint, scoring_hint
from mesh.v1 import explain_pb2
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.explain_pb2_grpc import ExplainServiceStub
from mesh.v1.language_model_pb2_grpc import LanguageModelStub
from mesh.v1.registry_pb2 import SERVICE_KIND_EXPLAINER, SERVICE_KIND_PREDICTOR, Deployment

OIP = "/inference.GRPCInferenceService/"


class _ForModel(Protocol):
    @property
    def model_name(self) -> str: ...


class NextHops:
    """Raises MeshError: ModelNotFound, Unavailable, and whatever the next hop answered."""

    def __init__(self, pool: EndpointPool, default_timeout_s: float) -> None:
        self._pool = pool
        self._default_timeout_s = default_timeout_s

    def deployment(self, name: str) -> Deployment:
        """The deployment of that name. Raises ModelNotFound."""
        return self._pool.deployment(name)

    async def describe(self, request: lm.DescribeModelRequest) -> lm.DescribeModelResponse:
        return await self._pool.unary(
            SERVICE_KIND_PREDICTOR,
            self._known(request),
            lambda channel: LanguageModelStub(channel).DescribeModel(request, timeout=self._timeout_s()),
            version=request.model_version,
        )

    async def generate(self, request: lm.GenerateRequest) -> AsyncGenerator[lm.GenerateResponse, None]:
        """One stream, also when the predictor dies or drains and another goes on.

        Close the generator when leaving it early: that cancels the call at the predictor.
        """
        answers = generation_stream.generate(
            self._pool,
            SERVICE_KIND_PREDICTOR,
            self._known(request),
            request.SerializeToString(),
            self._timeout_s,
            version=request.model_version,
            hint=generation_hint(request),
        )
        async with aclosing(answers):
            async for response, _ in answers:
                yield response

    async def score(self, request: lm.ScoreRequest) -> lm.ScoreResponse:
        return await self._pool.unary(
            SERVICE_KIND_PREDICTOR,
            self._known(request),
            lambda channel: LanguageModelStub(channel).Score(request, timeout=self._timeout_s()),
            request=scoring_hint(request),
            version=request.model_version,
        )

    async def tokenize(self, request: lm.TokenizeRequest) -> lm.TokenizeResponse:
        return await self._pool.unary(
            SERVICE_KIND_PREDICTOR,
            self._known(request),
            lambda channel: LanguageModelStub(channel).Tokenize(request, timeout=self._timeout_s()),
            version=request.model_version,
        )

    async def detokenize(self, request: lm.DetokenizeRequest) -> lm.DetokenizeResponse:
        return await self._pool.unary(
            SERVICE_KIND_PREDICTOR,
            self._known(request),
            lambda channel: LanguageModelStub(channel).Detokenize(request, timeout=self._timeout_s()),
            version=request.model_version,
        )

    async def explain(self, request: explain_pb2.ExplainRequest) -> explain_pb2.ExplainResponse:
        return await self._pool.unary(
            SERVICE_KIND_EXPLAINER,
            self._known(request),
            lambda channel: ExplainServiceStub(channel).Explain(request, timeout=self._timeout_s()),
        )

    async def infer_bytes(self, method: str, model: Model, message: bytes) -> bytes:
        """A unary RPC of OIP at a predictor: `message` and the answer pass as they are."""
        self._pool.deployment(model.name)

        async def call(channel: grpc.aio.Channel) -> bytes:
            rpc: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(OIP + method)
            return await rpc(message, timeout=self._timeout_s())

        return await self._pool.unary(SERVICE_KIND_PREDICTOR, model.name, call, version=model.version)

    def stream_infer_bytes(self, model: Model, feed: Feed) -> AsyncGenerator[bytes, None]:
        """The answers to the messages of `feed` on one ModelStreamInfer, as they are. To be closed as `generate`."""

        def call(channel: grpc.aio.Channel) -> grpc.aio.StreamStreamCall[bytes, bytes]:
            rpc: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(OIP + "ModelStreamInfer")
            return rpc(feed(), timeout=self._timeout_s())

        return self._pool.stream(SERVICE_KIND_PREDICTOR, model.name, call, version=model.version)

    def _known(self, request: _ForModel) -> str:
        return self._pool.deployment(request.model_name).name

    def _timeout_s(self) -> float | None:
        return context.remaining_s(self._default_timeout_s)

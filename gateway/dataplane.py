"""What the gateway does, whatever the front: find the deployment, call its first hop, note what came of it.

No front's own words are known here, neither HTTP nor the servicers' contexts, and no model either: a deployment is a
name, its first hop, and its model format. Every call has a deadline: the caller's, else the gateway's default.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable
from contextlib import aclosing

import grpc.aio

from gateway.exchange import Exchange
from gateway.metadata_cache import MetadataCache
from mesh import context, generation_stream
from mesh.deployments import versions_of
from mesh.errors import InvalidInput, NotFound
from mesh.model_health import is_ready
from mesh.oip import open_inference_pb2 as oip
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from mesh.pool import EndpointPool
from mesh.v1 import explain_pb2
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.explain_pb2_grpc import ExplainServiceStub
from mesh.v1.registry_pb2 import (
    SERVICE_KIND_EXPLAINER,
    SERVICE_KIND_TRANSFORMER,
    Deployment,
)
from mesh.view import MeshView

LANGUAGE_MODEL_FORMAT = "llm"

BytesFeed = Callable[[], AsyncIterator[bytes]]


class Dataplane:
    """Requests in, answers out. Raises MeshError only."""

    def __init__(
        self,
        pool: EndpointPool,
        view: Callable[[], MeshView],
        *,
        request_timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._pool = pool
        self._view = view
        self._request_timeout_s = request_timeout_s
        self._clock = clock
        self._metadata = MetadataCache(clock=clock)
        self.is_draining = False

    # What the mesh holds

    def deployments(self) -> list[Deployment]:
        """All deployments, by name."""
        return sorted(self._view().deployments.values(), key=lambda deployment: deployment.name)

    def deployment(self, name: str, exchange: Exchange | None = None) -> Deployment:
        """The deployment of that name, noted in `exchange`. Raises ModelNotFound."""
        deployment = self._pool.deployment(name)
        if exchange is not None:
            exchange.deployment = name
        return deployment

    def language_model(self, name: str, exchange: Exchange) -> Deployment:
        """As `deployment`; raises InvalidInput when the deployment does not generate text."""
        deployment = self.deployment(name, exchange)
        if not is_language_model(deployment):
            raise InvalidInput(
                f"model '{name}' does not generate text: its format is '{deployment.predictor.model_format}'",
                field="model",
            )
        return deployment

    def is_ready(self, name: str, version: str = "") -> bool:
        """True when a predictor has the model ready, in this version or in the deployed one. False for unknown ones."""
        return is_ready(self._view(), name, version)

    def index(self, *, only_ready: bool = False) -> list[oip.RepositoryIndexResponse.ModelIndex]:
        """One entry per version of each deployment, by name; first the version that requests without one get."""
        entries = [
            _index_entry(deployment.name, version, self.is_ready(deployment.name, version if number else ""))
            for deployment in self.deployments()
            for number, version in enumerate(versions_of(deployment))
        ]
        return [entry for entry in entries if entry.state == "READY" or not only_ready]

    # Calls whose bytes only pass through

    async def forward(self, method: str, model_name: str, request: bytes, exchange: Exchange) -> bytes:
        """Send a unary request to the first hop of its model, and return the answer, both as they are."""
        self.deployment(model_name, exchange)
        timeout_s = self._budget()

        async def call(channel: grpc.aio.Channel) -> bytes:
            rpc: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
            return await rpc(request, timeout=timeout_s())

        return await self._pool.unary(self._pool.first_hop(model_name), model_name, call)

    async def exchange_stream(self, method: str, model_name: str, feed: BytesFeed) -> AsyncGenerator[bytes, None]:
        """Send the messages of `feed` to one replica, and yield its answers. `feed` is asked again on a retry."""
        self.deployment(model_name)
        timeout_s = self._budget()

        def call(channel: grpc.aio.Channel) -> AsyncIterable[bytes]:
            rpc: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(method)
            return rpc(feed(), timeout=timeout_s())

        async with aclosing(self._pool.stream(self._pool.first_hop(model_name), model_name, call)) as answers:
            async for answer in answers:
                yield answer

    # Calls that a front has put together

    async def infer(self, request: oip.ModelInferRequest, exchange: Exchange) -> oip.ModelInferResponse:
        """Run a model on tensors."""
        self.deployment(request.model_name, exchange)
        timeout_s = self._budget()

        async def call(channel: grpc.aio.Channel) -> oip.ModelInferResponse:
            return await GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=timeout_s())

        response = None
        try:
            response = await self._pool.unary(self._pool.first_hop(request.model_name), request.model_name, call)
        finally:
            exchange.add_infer(request, response)
        return response

    async def metadata(self, name: str, version: str = "") -> oip.ModelMetadataResponse:
        """Names, datatypes and shapes of a model's tensors; kept for a while."""
        deployment = self.deployment(name)
        known = self._metadata.get(deployment, version)
        if known is not None:
            return known
        timeout_s = self._budget()

        async def call(channel: grpc.aio.Channel) -> oip.ModelMetadataResponse:
            request = oip.ModelMetadataRequest(name=name, version=version)
            return await GRPCInferenceServiceStub(channel).ModelMetadata(request, timeout=timeout_s())

        metadata = await self._pool.unary(self._pool.first_hop(name), name, call)
        self._metadata.put(deployment, version, metadata)
        return metadata

    async def config(self, name: str, version: str = "") -> oip.ModelConfigResponse:
        """Triton's description of a model."""
        self.deployment(name)
        timeout_s = self._budget()

        async def call(channel: grpc.aio.Channel) -> oip.ModelConfigResponse:
            request = oip.ModelConfigRequest(name=name, version=version)
            return await GRPCInferenceServiceStub(channel).ModelConfig(request, timeout=timeout_s())

        return await self._pool.unary(self._pool.first_hop(name), name, call)

    async def statistics(self, name: str, version: str = "") -> oip.ModelStatisticsResponse:
        """Counts and durations of one replica's work on a model."""
        self.deployment(name)
        timeout_s = self._budget()

        async def call(channel: grpc.aio.Channel) -> oip.ModelStatisticsResponse:
            request = oip.ModelStatisticsRequest(name=name, version=version)
            return await GRPCInferenceServiceStub(channel).ModelStatistics(request, timeout=timeout_s())

        return await self._pool.unary(self._pool.first_hop(name), name, call)

    async def generate(
        self, request: lm.GenerateRequest, exchange: Exchange
    ) -> AsyncGenerator[lm.GenerateResponse, None]:
        """Continue a prompt. Closing the iterator cancels the generation."""
        self.language_model(request.model_name, exchange)
        generation = exchange.begin_generation(request)
        async with aclosing(self._generate(request.model_name, request.SerializeToString())) as answers:
            async for response, _ in answers:
                generation.observe(response)
                yield response

    async def generate_bytes(self, model_name: str, request: bytes, exchange: Exchange) -> AsyncGenerator[bytes, None]:
        """As `generate`, for a request and answers that pass as they are."""
        self.deployment(model_name, exchange)
        generation = exchange.begin_generation(request)
        async with aclosing(self._generate(model_name, request)) as answers:
            async for response, content in answers:
                if content is None:
                    content = response.SerializeToString()
                generation.observe_bytes(content)
                yield content

    def _generate(self, model_name: str, request: bytes) -> AsyncGenerator[generation_stream.Answer, None]:
        """One stream, also when the replica that answers dies or drains and another goes on."""
        kind = self._pool.first_hop(model_name)
        return generation_stream.generate(self._pool, kind, model_name, request, self._budget())

    async def explain(self, request: explain_pb2.ExplainRequest, exchange: Exchange) -> explain_pb2.ExplainResponse:
        """Say what a model's answer owes to its input. Raises NotFound for deployments without an explainer."""
        deployment = self.deployment(request.model_name, exchange)
        if not deployment.HasField("explainer"):
            raise NotFound(f"model '{deployment.name}' has no explainer")
        if not request.method:
            request.method = deployment.explainer.method
        timeout_s = self._budget()

        async def call(channel: grpc.aio.Channel) -> explain_pb2.ExplainResponse:
            return await ExplainServiceStub(channel).Explain(request, timeout=timeout_s())

        kind = SERVICE_KIND_TRANSFORMER if deployment.HasField("transformer") else SERVICE_KIND_EXPLAINER
        response = None
        try:
            response = await self._pool.unary(kind, deployment.name, call)
        finally:
            exchange.add_explain(response)
        return response

    def _budget(self) -> Callable[[], float]:
        """What is left of the request's time whenever it is asked: retries share one deadline."""
        remaining_s = context.remaining_s(self._request_timeout_s)
        deadline = self._clock() + (self._request_timeout_s if remaining_s is None else remaining_s)
        return lambda: max(0.0, deadline - self._clock())


def _index_entry(name: str, version: str, is_ready: bool) -> oip.RepositoryIndexResponse.ModelIndex:
    return oip.RepositoryIndexResponse.ModelIndex(
        name=name,
        version=version,
        state="READY" if is_ready else "UNAVAILABLE",
        reason="" if is_ready else "no predictor has it ready",
    )


def is_language_model(deployment: Deployment) -> bool:
    """True for deployments that serve LanguageModel."""
    return deployment.predictor.model_format == LANGUAGE_MODEL_FORMAT

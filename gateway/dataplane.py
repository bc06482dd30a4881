"""What the gateway does, whatever the front: find the deployment, call its first hop, note what came of it.

No front's own words are known here, neither HTTP nor the servicers' contexts, and no model either: a deployment is a
name, its first hop, and its model format. Every call has a deadline: the caller's, else the gateway's default.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable
from contextlib import aclosing

import grpc.aio

from gateway.dispatch import Dispatch
from gateway.exchange import Exchange
from gateway.metadata_cache import MetadataCache
from gateway.mirror import MODEL_INFER, Copy, Mirror
from gateway.stamping import all_as_asked, all_stamped, all_started_as_asked, as_asked, stamp, stamped
from gateway.traffic import Route
from mesh import context, generation_stream
from mesh.balancing import ANY
from mesh.deployments import is_language_model, versions_of
from mesh.errors import InvalidInput, NotFound, Unavailable
from mesh.infer_stream import Feed, Model
from mesh.model_health import is_ready
from mesh.oip import open_inference_pb2 as oip
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from mesh.pool import EndpointPool
from mesh.request_hints import serialized_generation_hint
from mesh.v1 import explain_pb2
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.explain_pb2_grpc import ExplainServiceStub
from mesh.v1.registry_pb2 import (
    SERVICE_KIND_EXPLAINER,
    SERVICE_KIND_PREDICTOR,
    SERVICE_KIND_TRANSFORMER,
    Deployment,
)
from mesh.view import MeshView

__all__ = ["Dataplane", "is_language_model"]


class Dataplane:
    """Requests in, answers out. Raises MeshError only."""

    def __init__(
        self,
        pool: EndpointPool,
        view: Callable[[], MeshView],
        *,
        request_timeout_s: float,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        mirror: Mirror | None = None,
    ) -> None:
        """rng: divides the requests of deployments with a canary. mirror: without one nothing is copied."""
        self._pool = pool
        self._view = view
        self._request_timeout_s = request_timeout_s
        self._clock = clock
        self._metadata = MetadataCache(clock=clock)
        self._dispatch = Dispatch(view, rng)
        self._mirror = mirror
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

    async def forward(
        self, method: str, model_name: str, request: bytes, exchange: Exchange, *, version: str = ""
    ) -> bytes:
        """Send a unary request to the first hop of its model, and return the answer, both as they are.

        version: what the request itself names; empty: none.
        """
        deployment = self.deployment(model_name, exchange)
        timeout_s = self._budget()

        async def at(route: Route) -> bytes:
            content = stamped(request, route)

            async def call(channel: grpc.aio.Channel) -> bytes:
                rpc: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(method)
                return await rpc(content, timeout=timeout_s())

            name = route.deployment.name
            answer = await self._pool.unary(self._pool.first_hop(name), name, call, version=route.version)
            if route.mirror and self._mirror is not None:
                self._mirror.offer(Copy(route, method, request, [answer]))
            return as_asked(method, answer, route)

        return await self._dispatch.unary(deployment, version, exchange, at)

    async def exchange_stream(
        self, method: str, model: Model, feed: Feed, exchange: Exchange
    ) -> AsyncGenerator[bytes, None]:
        """Send the messages of `feed`, all for one model, to one replica, and yield its answers.

        `feed` is asked again on a retry.
        """
        deployment = self.deployment(model.name)
        timeout_s = self._budget()

        def at(route: Route) -> AsyncGenerator[bytes, None]:
            def call(channel: grpc.aio.Channel) -> AsyncIterable[bytes]:
                rpc: grpc.aio.StreamStreamMultiCallable[bytes, bytes] = channel.stream_stream(method)
                return rpc(all_stamped(feed(), route), timeout=timeout_s())

            name = route.deployment.name
            answers = self._pool.stream(self._pool.first_hop(name), name, call, version=route.version)
            return all_as_asked(method, answers, route)

        async with aclosing(self._dispatch.stream(deployment, model.version, exchange, at)) as answers:
            async for answer in answers:
                yield answer

    # Calls that a front has put together

    async def infer(self, request: oip.ModelInferRequest, exchange: Exchange) -> oip.ModelInferResponse:
        """Run a model on tensors. What the request names becomes what it gets."""
        deployment = self.deployment(request.model_name, exchange)
        timeout_s = self._budget()

        async def at(route: Route) -> oip.ModelInferResponse:
            stamp(request, route)

            async def call(channel: grpc.aio.Channel) -> oip.ModelInferResponse:
                return await GRPCInferenceServiceStub(channel).ModelInfer(request, timeout=timeout_s())

            name = route.deployment.name
            response = await self._pool.unary(self._pool.first_hop(name), name, call, version=route.version)
            if route.mirror and self._mirror is not None:
                answers = [response.SerializeToString()]
                self._mirror.offer(Copy(route, MODEL_INFER, request.SerializeToString(), answers))
            if route.is_fallback:
                response.model_name = route.asked_name
            return response

        response = None
        try:
            response = await self._dispatch.unary(deployment, request.model_version, exchange, at)
        finally:
            exchange.add_infer(request, response)
        return response

    async def metadata(self, name: str, exchange: Exchange, version: str = "") -> oip.ModelMetadataResponse:
        """Names, datatypes and shapes of a model's tensors, in the version that a call of the exchange gets.

        Kept for a while: never change it.
        """
        timeout_s = self._budget()

        async def at(route: Route) -> oip.ModelMetadataResponse:
            name = route.deployment.name
            metadata = self._metadata.get(route.deployment, route.version)
            if metadata is None:
                request = oip.ModelMetadataRequest(name=name, version=route.version)

                async def call(channel: grpc.aio.Channel) -> oip.ModelMetadataResponse:
                    return await GRPCInferenceServiceStub(channel).ModelMetadata(request, timeout=timeout_s())

                metadata = await self._pool.unary(self._pool.first_hop(name), name, call, version=route.version)
                self._metadata.put(route.deployment, route.version, metadata)
            if not route.is_fallback:
                return metadata
            renamed = oip.ModelMetadataResponse()
            renamed.CopyFrom(metadata)
            renamed.name = route.asked_name
            return renamed

        return await self._dispatch.unary(self.deployment(name), version, exchange, at)

    async def config(self, name: str, exchange: Exchange, version: str = "") -> oip.ModelConfigResponse:
        """Triton's description of a model, in the version that a call of the exchange gets."""
        timeout_s = self._budget()

        async def at(route: Route) -> oip.ModelConfigResponse:
            request = oip.ModelConfigRequest(name=route.deployment.name, version=route.version)

            async def call(channel: grpc.aio.Channel) -> oip.ModelConfigResponse:
                return await GRPCInferenceServiceStub(channel).ModelConfig(request, timeout=timeout_s())

            first_hop = self._pool.first_hop(request.name)
            response = await self._pool.unary(first_hop, request.name, call, version=route.version)
            if route.is_fallback:
                response.config.name = route.asked_name
            return response

        return await self._dispatch.unary(self.deployment(name), version, exchange, at)

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
        deployment = self.language_model(request.model_name, exchange)
        generation = exchange.begin_generation(request)
        content = request.SerializeToString()
        async with aclosing(self._generate(deployment, request.model_version, content, exchange)) as answers:
            async for response, _ in answers:
                generation.observe(response)
                yield response

    async def generate_bytes(
        self, model_name: str, request: bytes, exchange: Exchange, *, version: str = ""
    ) -> AsyncGenerator[bytes, None]:
        """As `generate`, for a request and answers that pass as they are. version: what the request names."""
        deployment = self.deployment(model_name, exchange)
        generation = exchange.begin_generation(request)
        async with aclosing(self._generate(deployment, version, request, exchange)) as answers:
            async for response, content in answers:
                if content is None:
                    content = response.SerializeToString()
                generation.observe_bytes(content)
                yield content

    def _generate(
        self, deployment: Deployment, version: str, request: bytes, exchange: Exchange
    ) -> AsyncGenerator[generation_stream.Answer, None]:
        """One stream, also when the replica that answers dies or drains and another goes on."""
        timeout_s = self._budget()

        def at(route: Route) -> AsyncGenerator[generation_stream.Answer, None]:
            name, content = route.deployment.name, stamped(request, route)
            kind = self._pool.first_hop(name)
            # A transformer holds no prefixes.
            hint = serialized_generation_hint(content) if kind == SERVICE_KIND_PREDICTOR else ANY
            answers = generation_stream.generate(
                self._pool, kind, name, content, timeout_s, version=route.version, hint=hint
            )
            if route.mirror and self._mirror is not None:
                return self._mirror.watched(answers, Copy(route, generation_stream.GENERATE, request, []))
            return all_started_as_asked(answers, route)

        return self._dispatch.stream(deployment, version, exchange, at)

    async def explain(self, request: explain_pb2.ExplainRequest, exchange: Exchange) -> explain_pb2.ExplainResponse:
        """Say what a model's answer owes to its input. Raises NotFound for deployments without an explainer.

        As of `infer`, the request is changed.
        """
        deployment = self.deployment(request.model_name, exchange)
        if not deployment.HasField("explainer"):
            raise NotFound(f"model '{deployment.name}' has no explainer")
        method = request.method
        timeout_s = self._budget()

        async def at(route: Route) -> explain_pb2.ExplainResponse:
            if not route.deployment.HasField("explainer"):
                raise Unavailable(f"no explainer can answer, and the fallback '{route.deployment.name}' has none")
            stamp(request, route)
            request.method = method or route.deployment.explainer.method

            async def call(channel: grpc.aio.Channel) -> explain_pb2.ExplainResponse:
                return await ExplainServiceStub(channel).Explain(request, timeout=timeout_s())

            has_transformer = route.deployment.HasField("transformer")
            kind = SERVICE_KIND_TRANSFORMER if has_transformer else SERVICE_KIND_EXPLAINER
            response = await self._pool.unary(kind, route.deployment.name, call)
            if route.is_fallback:
                response.model_name = route.asked_name
            return response

        response = None
        try:
            response = await self._dispatch.unary(deployment, request.model_version, exchange, at)
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

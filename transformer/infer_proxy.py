"""The gRPC front of the Open Inference Protocol: the transformer in the place of the models behind it.

What concerns a model goes to its predictor as bytes, of which only name and version are read. Serving this is not the
generated base class's way, which parses every message; so the handlers are made here, by hand.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from mesh.errors import InvalidInput, MeshError, ModelNotFound, Unavailable, Unsupported
from mesh.oip import open_inference_pb2 as oip
from mesh.v1.registry_pb2 import SERVICE_KIND_PREDICTOR
from mesh.view import MeshView
from transformer.next_hops import NextHops

SERVICE = "inference.GRPCInferenceService"
PASSED_ON = ("ModelInfer", "ModelMetadata", "ModelConfig", "ModelStatistics")

Context = grpc.aio.ServicerContext[Any, Any]


class InferProxy:
    """Answers for the service itself, and passes on what concerns a model."""

    def __init__(
        self, next_hops: NextHops, view: Callable[[], MeshView], is_ready: Callable[[], bool], version: str
    ) -> None:
        """version: of this software, for ServerMetadata."""
        self._version = version
        self._next_hops = next_hops
        self._view = view
        self._is_ready = is_ready

    async def server_live(self, request: oip.ServerLiveRequest, context: Context) -> oip.ServerLiveResponse:
        return oip.ServerLiveResponse(live=True)

    async def server_ready(self, request: oip.ServerReadyRequest, context: Context) -> oip.ServerReadyResponse:
        return oip.ServerReadyResponse(ready=self._is_ready())

    async def server_metadata(self, request: oip.ServerMetadataRequest, context: Context) -> oip.ServerMetadataResponse:
        return oip.ServerMetadataResponse(
            name="meshserve-transformer",
            version=self._version,
            extensions=["binary_tensor_data", "model_configuration"],
        )

    async def model_ready(self, request: oip.ModelReadyRequest, context: Context) -> oip.ModelReadyResponse:
        """Not an error for a model that is unknown or away: it is not ready."""
        message = request.SerializeToString()
        try:
            answer = await self._next_hops.infer_bytes("ModelReady", request.name, message)
        except (ModelNotFound, Unavailable):
            return oip.ModelReadyResponse(ready=False)
        return oip.ModelReadyResponse.FromString(answer)

    async def repository_index(
        self, request: oip.RepositoryIndexRequest, context: Context
    ) -> oip.RepositoryIndexResponse:
        """Deployments of the mesh; READY when a predictor says that it serves the model."""
        view = self._view()
        served = {
            model.name: model.version
            for replica in view.replicas_of(SERVICE_KIND_PREDICTOR)
            for model in replica.models
            if model.ready
        }
        index = oip.RepositoryIndexResponse()
        for name, deployment in sorted(view.deployments.items()):
            if name in served or not request.ready:
                state, reason = ("READY", "") if name in served else ("UNAVAILABLE", "no predictor serves it now")
                index.models.add(
                    name=name,
                    version=served.get(name, deployment.predictor.model_version),
                    state=state,
                    reason=reason,
                )
        return index

    def pass_on(self, method: str) -> Callable[[bytes, Context], Awaitable[bytes]]:
        """The handler of a unary RPC that goes to the model's predictor as it is."""

        async def handle(message: bytes, context: Context) -> bytes:
            return await self._next_hops.infer_bytes(method, model_of(message).name, message)

        return handle

    async def stream_infer(self, messages: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        """One request after the other, each to its own model; one that fails is answered, and the stream goes on."""
        async for message in messages:
            try:
                model = model_of(message)
                async with aclosing(self._next_hops.stream_infer_bytes(model.name, message)) as answers:
                    async for answer in answers:
                        yield answer
            except MeshError as error:
                yield _failed(message, error).SerializeToString()


def add_InferProxy_to_server(proxy: InferProxy, server: grpc.aio.Server) -> None:
    """Register all RPCs of the service, as the generated functions of its name do."""
    unary, stream = grpc.unary_unary_rpc_method_handler, grpc.stream_stream_rpc_method_handler
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "ServerLive": _typed(proxy.server_live, oip.ServerLiveRequest),
        "ServerReady": _typed(proxy.server_ready, oip.ServerReadyRequest),
        "ServerMetadata": _typed(proxy.server_metadata, oip.ServerMetadataRequest),
        "ModelReady": _typed(proxy.model_ready, oip.ModelReadyRequest),
        "RepositoryIndex": _typed(proxy.repository_index, oip.RepositoryIndexRequest),
        "ModelStreamInfer": stream(proxy.stream_infer),
    }
    handlers.update({method: unary(proxy.pass_on(method)) for method in PASSED_ON})
    for method in oip.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        handlers.setdefault(method.name, unary(_refuse(method.name)))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


def model_of(message: bytes) -> oip.ModelReadyRequest:
    """Name and version of the model that a request is for: fields 1 and 2 of every request about a model.

    Raises InvalidInput when the bytes are no such message.
    """
    try:
        return oip.ModelReadyRequest.FromString(message)
    except DecodeError:
        raise InvalidInput("the request is not a protobuf message of the Open Inference Protocol") from None


def _typed(
    behaviour: Callable[[Any, Context], Awaitable[Message]], request: type[Message]
) -> grpc.RpcMethodHandler[Any, Any]:
    def encode(response: Message) -> bytes:
        return response.SerializeToString()

    return grpc.unary_unary_rpc_method_handler(behaviour, request.FromString, encode)


def _refuse(method: str) -> Callable[[bytes, Context], Awaitable[bytes]]:
    async def handle(message: bytes, context: Context) -> bytes:
        raise Unsupported(f"{method} is not served by the transformer")

    return handle


def _failed(message: bytes, error: MeshError) -> oip.ModelStreamInferResponse:
    """The answer that stands for an error on a stream: it tells the request by its id."""
    response = oip.ModelStreamInferResponse(error_message=error.message)
    try:
        request = oip.ModelInferRequest.FromString(message)
    except DecodeError:
        return response
    response.infer_response.id = request.id
    response.infer_response.model_name = request.model_name
    response.infer_response.model_version = request.model_version
    return response

"""The gRPC front of the Open Inference Protocol: the transformer in the place of the models behind it.

What concerns a model goes to its predictor as bytes, of which only the model's name is read. Serving this is not the
generated base class's way, which parses every message; so the handlers are made here, by hand.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from mesh.errors import InvalidInput, MeshError, ModelNotFound, Unavailable
from mesh.infer_stream import InferStream, Model
from mesh.model_index import SERVICE, ModelIndex, index_handlers
from mesh.oip import open_inference_pb2 as oip
from transformer.next_hops import NextHops

PASSED_ON = ("ModelInfer", "ModelMetadata", "ModelConfig", "ModelStatistics")

Context = grpc.aio.ServicerContext[Any, Any]


class InferProxy:
    """`index` answers for the service itself."""

    def __init__(self, next_hops: NextHops, index: ModelIndex) -> None:
        self.index = index
        self._next_hops = next_hops

    async def model_ready(self, message: bytes, context: Context) -> bytes:
        """Not an error for a model that is unknown or away: it is not ready."""
        try:
            return await self._next_hops.infer_bytes("ModelReady", model_of(message), message)
        except (ModelNotFound, Unavailable):
            return oip.ModelReadyResponse(ready=False).SerializeToString()

    def pass_on(self, method: str) -> Callable[[bytes, Context], Awaitable[bytes]]:
        """The handler of a unary RPC that goes to the model's predictor as it is."""

        async def handle(message: bytes, context: Context) -> bytes:
            return await self._next_hops.infer_bytes(method, model_of(message), message)

        return handle

    async def stream_infer(self, messages: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        """Each message to its own model; one that has no way there is answered, and the stream goes on."""
        async with aclosing(InferStream(TransformerRoute(self._next_hops)).answers(messages)) as answers:
            async for answer in answers:
                yield answer


class TransformerRoute:
    """The `mesh.infer_stream.Route` to the predictors."""

    def __init__(self, next_hops: NextHops) -> None:
        self._next_hops = next_hops
        self.answers = next_hops.stream_infer_bytes

    def model_of(self, message: bytes) -> Model:
        model = model_of(message)
        self._next_hops.deployment(model.name)
        return model

    def failure(self, message: bytes, error: MeshError) -> bytes:
        return _failed(message, error).SerializeToString()


def add_InferProxy_to_server(proxy: InferProxy, server: grpc.aio.Server) -> None:
    """Register all RPCs of the service, as the generated functions of its name do."""
    handlers = index_handlers(proxy.index)
    handlers["ModelReady"] = grpc.unary_unary_rpc_method_handler(proxy.model_ready)
    handlers["ModelStreamInfer"] = grpc.stream_stream_rpc_method_handler(proxy.stream_infer)
    handlers.update({method: grpc.unary_unary_rpc_method_handler(proxy.pass_on(method)) for method in PASSED_ON})
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


def model_of(message: bytes) -> Model:
    """The model that a request is for, and its version: fields 1 and 2 of every request about a model.

    Raises InvalidInput when the bytes are no such message.
    """
    try:
        # The smallest message with these fields; the parser steps over all others without looking in.
        request = oip.ModelReadyRequest.FromString(message)
        return Model(request.name, request.version)
    except DecodeError:
        raise InvalidInput("the request is not a protobuf message of the Open Inference Protocol") from None


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

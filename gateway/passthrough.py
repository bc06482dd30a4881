"""The RPCs whose bytes only pass through: a peek at the model's name, and on to the first hop.

A generic handler with identity serializers: neither requests nor answers are parsed, so a 16 MiB tensor costs its copy
and no more. It stands before the servicers; what it does not serve is theirs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError, Message

from gateway import wire
from gateway.dataplane import Dataplane
from gateway.exchange import Exchange, Recorder, taken_headers
from gateway.infer_stream import GatewayRoute
from mesh.errors import Internal, InvalidInput, MeshError
from mesh.infer_stream import InferStream, Model
from mesh.oip import open_inference_pb2 as oip
from mesh.v1 import language_model_pb2 as lm

if TYPE_CHECKING:
    # The stubs make these generic; the classes themselves cannot be subscripted.
    Handler = grpc.RpcMethodHandler[bytes, bytes]
    Context = grpc.aio.ServicerContext[bytes, bytes]

OIP_SERVICE = "inference.GRPCInferenceService"
OIP = f"/{OIP_SERVICE}/"
LANGUAGE_MODEL_SERVICE = "mesh.v1.LanguageModel"
LANGUAGE_MODEL = f"/{LANGUAGE_MODEL_SERVICE}/"
STREAM_INFER = OIP + "ModelStreamInfer"
PROTOCOL = "grpc"
# Up to this size parsing a message, in C, is quicker than a walk over its top level, and copies nothing worth a word.
MAX_PARSED_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Method:
    """name: with its service. request: its class, for the day when a next hop could not read one.

    has_id: field 3 is the request's id. is_prediction: it leaves a record.
    """

    name: str
    request: type[Message]
    has_id: bool = False
    is_prediction: bool = False
    is_streamed: bool = False


METHODS = (
    Method(OIP + "ModelInfer", oip.ModelInferRequest, has_id=True, is_prediction=True),
    Method(OIP + "ModelMetadata", oip.ModelMetadataRequest),
    Method(OIP + "ModelConfig", oip.ModelConfigRequest),
    Method(LANGUAGE_MODEL + "Generate", lm.GenerateRequest, is_prediction=True, is_streamed=True),
    Method(LANGUAGE_MODEL + "Score", lm.ScoreRequest),
    Method(LANGUAGE_MODEL + "Tokenize", lm.TokenizeRequest),
    Method(LANGUAGE_MODEL + "Detokenize", lm.DetokenizeRequest),
    Method(LANGUAGE_MODEL + "DescribeModel", lm.DescribeModelRequest),
)


class PassThrough(grpc.GenericRpcHandler):
    """Serves METHODS and ModelStreamInfer."""

    def __init__(self, dataplane: Dataplane, recorder: Recorder) -> None:
        self._dataplane = dataplane
        self._recorder = recorder
        self._handlers: dict[str, Handler] = {method.name: self._handler(method) for method in METHODS}
        self._handlers[STREAM_INFER] = grpc.stream_stream_rpc_method_handler(self._stream_infer)

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:  # Any: as the base class has it
        """The handler of the method; None leaves it to the servicers."""
        return self._handlers.get(handler_call_details.method)

    def _handler(self, method: Method) -> Handler:
        if method.is_streamed:
            return grpc.unary_stream_rpc_method_handler(self._streamed(method))
        return grpc.unary_unary_rpc_method_handler(self._unary(method))

    def _unary(self, method: Method) -> Callable[[bytes, Context], Any]:
        model_of = _model_reader(method)

        async def forward(request: bytes, context: Context) -> bytes:
            with self._recorder.exchange(PROTOCOL, method.name) as exchange:
                exchange.is_prediction = method.is_prediction
                name, version = model_of(request)
                answer = None
                try:
                    answer = await self._dataplane.forward(method.name, name, request, exchange, version=version)
                except MeshError as error:
                    raise _blamed(error, request, method) from error
                finally:
                    if method.is_prediction:
                        exchange.add_infer(request, answer)
                await _tell_taken(exchange, context)
                return answer

        return forward

    def _streamed(self, method: Method) -> Callable[[bytes, Context], AsyncIterator[bytes]]:
        model_of = _model_reader(method)

        async def forward(request: bytes, context: Context) -> AsyncIterator[bytes]:
            with self._recorder.exchange(PROTOCOL, method.name) as exchange:
                exchange.is_prediction = method.is_prediction
                name, version = model_of(request)
                is_first = True
                try:
                    generated = self._dataplane.generate_bytes(name, request, exchange, version=version)
                    async with aclosing(generated) as answers:
                        async for answer in answers:
                            if is_first:
                                is_first = False
                                await _tell_taken(exchange, context)
                            yield answer
                except MeshError as error:
                    raise _blamed(error, request, method) from error

        return forward

    async def _stream_infer(self, requests: AsyncIterator[bytes], _context: Context) -> AsyncIterator[bytes]:
        with self._recorder.exchange(PROTOCOL, STREAM_INFER) as exchange:
            exchange.is_prediction = True
            route = GatewayRoute(self._dataplane, STREAM_INFER, exchange)
            async with aclosing(InferStream(route).answers(requests)) as answers:
                async for answer in answers:
                    yield answer


async def _tell_taken(exchange: Exchange, context: Context) -> None:
    """Say in the initial metadata where the request went, if there was something to decide."""
    headers = taken_headers(exchange)
    if headers:
        await context.send_initial_metadata(headers)


def _model_reader(method: Method) -> Callable[[bytes], Model]:
    """What a request of the method is routed by. It raises InvalidInput for what is no protobuf message."""
    fields = method.request.DESCRIPTOR.fields_by_number
    name_and_version = attrgetter(fields[1].name, fields[2].name)

    def model_of(request: bytes) -> Model:
        if len(request) <= MAX_PARSED_BYTES:
            try:
                return Model(*name_and_version(method.request.FromString(request)))
            except DecodeError:
                pass  # when it is the tensors that are malformed, the next hop says so; the walk tells
        header = wire.read_header(request, has_id=method.has_id)
        return Model(header.model_name, header.model_version)

    return model_of


def _blamed(error: MeshError, request: bytes, method: Method) -> MeshError:
    """`error`, or InvalidInput where the next hop failed because the bytes are no message of the method.

    Only a failure that looks like a fault of ours is looked into; a good request is never parsed here.
    """
    if not isinstance(error, Internal):
        return error
    try:
        method.request.FromString(request)
    except DecodeError:
        return InvalidInput(f"the request is not a {method.request.DESCRIPTOR.full_name} message")
    return error

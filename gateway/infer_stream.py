"""What the gateway reads of the messages of a ModelStreamInfer, and what it notes of them; the stream is mesh's.

The record of a stream that names several models is the first one's.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from gateway import wire
from gateway.dataplane import Dataplane
from gateway.exchange import Exchange
from mesh.errors import InvalidInput, MeshError
from mesh.infer_stream import Feed, Model
from mesh.oip import open_inference_pb2 as oip

_ANSWER_FIELD = oip.ModelStreamInferResponse.INFER_RESPONSE_FIELD_NUMBER


class GatewayRoute:
    """The `mesh.infer_stream.Route` of one exchange."""

    def __init__(self, dataplane: Dataplane, method: str, exchange: Exchange) -> None:
        self._dataplane = dataplane
        self._method = method
        self._exchange = exchange

    def model_of(self, message: bytes) -> Model:
        header = wire.read_header(message, has_id=True)
        is_first = self._exchange.deployment is None
        self._dataplane.deployment(header.model_name, self._exchange if is_first else None)
        self._exchange.add_infer(message, None)
        return Model(header.model_name, header.model_version)

    async def answers(self, model: Model, feed: Feed) -> AsyncGenerator[bytes, None]:
        async with aclosing(self._dataplane.exchange_stream(self._method, model, feed, self._exchange)) as answers:
            async for answer in answers:
                self._note(answer)
                yield answer

    def failure(self, message: bytes, error: MeshError) -> bytes:
        answer = oip.ModelStreamInferResponse(error_message=error.message)
        try:
            header = wire.read_header(message, has_id=True)
        except InvalidInput:
            return answer.SerializeToString()
        answer.infer_response.model_name = header.model_name
        answer.infer_response.id = header.request_id
        return answer.SerializeToString()

    def _note(self, answer: bytes) -> None:
        for number, _, start, end in wire.fields(answer):
            if number == _ANSWER_FIELD:
                self._exchange.add_infer(None, answer[start:end])

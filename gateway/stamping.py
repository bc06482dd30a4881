"""Writes a route into the messages of a request, and the name that the client used into their answers.

Bytes stay bytes: a field that is put behind a protobuf message counts instead of an earlier one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Protocol, TypeVar

from gateway import wire
from gateway.traffic import Arm, Route
from mesh.generation_stream import Answer
from mesh.oip import open_inference_pb2 as oip
from mesh.v1 import language_model_pb2 as lm

T = TypeVar("T")

# All requests about a model have its name and version here, as gateway/wire.py says.
_MODEL_NAME, _MODEL_VERSION = 1, 2

# Where the answers of each method name the model: the field numbers on the way to it.
_NAME_IN_ANSWER = {
    "/inference.GRPCInferenceService/ModelInfer": (oip.ModelInferResponse.MODEL_NAME_FIELD_NUMBER,),
    "/inference.GRPCInferenceService/ModelMetadata": (oip.ModelMetadataResponse.NAME_FIELD_NUMBER,),
    "/inference.GRPCInferenceService/ModelConfig": (
        oip.ModelConfigResponse.CONFIG_FIELD_NUMBER,
        oip.ModelConfig.NAME_FIELD_NUMBER,
    ),
    "/inference.GRPCInferenceService/ModelStreamInfer": (
        oip.ModelStreamInferResponse.INFER_RESPONSE_FIELD_NUMBER,
        oip.ModelInferResponse.MODEL_NAME_FIELD_NUMBER,
    ),
    "/mesh.v1.LanguageModel/Score": (lm.ScoreResponse.MODEL_NAME_FIELD_NUMBER,),
    "/mesh.v1.LanguageModel/DescribeModel": (lm.DescribeModelResponse.MODEL_NAME_FIELD_NUMBER,),
}


class ModelRequest(Protocol):
    """A request message that a front has put together."""

    model_name: str
    model_version: str


def stamp(request: ModelRequest, route: Route) -> None:
    """Name in `request` what the route leads to."""
    if _is_decided(route):
        request.model_name, request.model_version = route.deployment.name, route.version


def stamped(request: bytes, route: Route) -> bytes:
    """As `stamp`, for the bytes of a request."""
    if not _is_decided(route):
        return request
    name = wire.string_field((_MODEL_NAME,), route.deployment.name) if route.is_fallback else b""
    return b"".join((request, name, wire.string_field((_MODEL_VERSION,), route.version)))


def as_asked(method: str, answer: bytes, route: Route) -> bytes:
    """The answer under the name that the client knows, when another deployment stood in."""
    path = _NAME_IN_ANSWER.get(method) if route.is_fallback else None
    # Only the first message of a stream, or one that is no error, has the part that names the model.
    if path is None or (len(path) > 1 and not wire.has_field(answer, path[0])):
        return answer
    return answer + wire.string_field(path, route.asked_name)


def all_stamped(requests: AsyncIterator[bytes], route: Route) -> AsyncIterator[bytes]:
    """As `stamped`, for each request of a stream."""
    return _each(requests, lambda request: stamped(request, route)) if _is_decided(route) else requests


def all_as_asked(method: str, answers: AsyncGenerator[bytes, None], route: Route) -> AsyncGenerator[bytes, None]:
    """As `as_asked`, for each answer of a stream. To be closed instead of `answers`."""
    return _each(answers, lambda answer: as_asked(method, answer, route)) if route.is_fallback else answers


def all_started_as_asked(answers: AsyncGenerator[Answer, None], route: Route) -> AsyncGenerator[Answer, None]:
    """As `all_as_asked`, for the answers of a generation."""

    def started_as_asked(answer: Answer) -> Answer:
        response, _ = answer
        if not response.HasField("start"):
            return answer
        response.start.model_name = route.asked_name
        return response, None  # the bytes are no longer the message's

    return _each(answers, started_as_asked) if route.is_fallback else answers


async def _each(messages: AsyncIterator[T], change: Callable[[T], T]) -> AsyncGenerator[T, None]:
    try:
        async for message in messages:
            yield change(message)
    finally:
        if isinstance(messages, AsyncGenerator):
            await messages.aclose()


def _is_decided(route: Route) -> bool:
    """False when the request names already what it shall get."""
    return route.arm not in (None, Arm.NAMED)

"""An error keeps its class, field and delay from hop to hop."""

from __future__ import annotations

import grpc
import grpc.aio
import pytest

from mesh import errors
from mesh.channel import to_mesh_error
from mesh.errors import MeshError, ModelNotFound, Overloaded, PromptTooLong
from mesh.interceptors.error_trailers import error_from, trailers_of
from mesh.testing import serve_in_process
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.language_model_pb2_grpc import (
    LanguageModelServicer,
    LanguageModelStub,
    add_LanguageModelServicer_to_server,
)


class Tokenizer(LanguageModelServicer):
    """Raises `error`, or passes on what its own next hop answers."""

    def __init__(self, error: MeshError | None = None, next_hop: grpc.aio.Channel | None = None) -> None:
        self._error = error
        self._next_hop = next_hop

    async def Tokenize(self, request: lm.TokenizeRequest, context: object) -> lm.TokenizeResponse:
        if self._next_hop is not None:
            return await LanguageModelStub(self._next_hop).Tokenize(request, timeout=5)
        assert self._error is not None
        raise self._error


@pytest.mark.parametrize(
    "error",
    [
        PromptTooLong("prompt has 9 tokens", field="messages"),
        ModelNotFound("no 'x'"),
        Overloaded("full", retry_after_s=7),
        errors.MessageTooLarge("large"),
        errors.ModelNotReady("loading"),
        errors.Unavailable("nobody", retry_after_s=3),
    ],
    ids=lambda error: type(error).__name__,
)
async def test_error_arrives_as_it_was_raised_two_hops_away(error: MeshError) -> None:
    async with (
        serve_in_process((add_LanguageModelServicer_to_server, Tokenizer(error))) as behind,
        serve_in_process((add_LanguageModelServicer_to_server, Tokenizer(next_hop=behind))) as channel,
    ):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await LanguageModelStub(channel).Tokenize(lm.TokenizeRequest(text="x"), timeout=5)

    arrived = to_mesh_error(raised.value)
    assert type(arrived) is type(error)
    assert (arrived.message, arrived.field) == (error.message, error.field)
    assert getattr(arrived, "retry_after_s", None) == getattr(error, "retry_after_s", None)


def test_class_of_another_code_does_not_count() -> None:
    arrived = error_from(grpc.StatusCode.NOT_FOUND.value[0], "gone", [("mesh-error", "PromptTooLong")])

    assert type(arrived) is errors.NotFound


@pytest.mark.parametrize("delay", ["soon", "-1", "nan", "1e9"])
def test_nonsense_delay_becomes_the_default(delay: str) -> None:
    arrived = error_from(grpc.StatusCode.RESOURCE_EXHAUSTED.value[0], "full", [("retry-after-s", delay)])

    assert isinstance(arrived, Overloaded)
    assert arrived.retry_after_s == 1.0


def test_field_that_metadata_cannot_carry_stays_behind() -> None:
    assert "mesh-error-field" not in dict(trailers_of(errors.InvalidInput("wrong", field="größe")))

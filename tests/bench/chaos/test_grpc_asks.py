"""Answers over gRPC, from a server in this process: put together by output; what is not a whole answer fails."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from bench.chaos.answer import Answer, Failed, Output
from bench.chaos.grpc_asks import generate, score, tokenize
from mesh.testing import serve_in_process
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.language_model_pb2_grpc import LanguageModelServicer, add_LanguageModelServicer_to_server

START = lm.GenerateResponse(start=lm.GenerationStart(model_name="m"))


def last(index: int, **fields: object) -> lm.GenerateResponse:
    usage = lm.Usage(prompt_tokens=5, output_tokens=2)
    return lm.GenerateResponse(index=index, finish_reason=lm.FINISH_REASON_STOP, usage=usage, **fields)  # type: ignore[arg-type]


class Saying(LanguageModelServicer):
    """Says what it is given to say, then fails if it is given a status."""

    def __init__(self, responses: list[lm.GenerateResponse], status: grpc.StatusCode | None = None) -> None:
        self._responses, self._status = responses, status

    async def Generate(  # type: ignore[override]
        self, request: lm.GenerateRequest, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[lm.GenerateResponse]:
        for response in self._responses:
            yield response
        if self._status is not None:
            await context.abort(self._status, "died")

    async def Score(self, request: lm.ScoreRequest, context: grpc.aio.ServicerContext) -> lm.ScoreResponse:  # type: ignore[override]
        result = lm.ScoreResponse.Result(token_ids=[1, 2], logprobs=[-0.5, -1.0])
        return lm.ScoreResponse(results=[result], usage=lm.Usage(prompt_tokens=2))

    async def Tokenize(self, request: lm.TokenizeRequest, context: grpc.aio.ServicerContext) -> lm.TokenizeResponse:  # type: ignore[override]
        return lm.TokenizeResponse(token_ids=[4, 5])


async def generated(*responses: lm.GenerateResponse, status: grpc.StatusCode | None = None) -> Answer:
    async with serve_in_process((add_LanguageModelServicer_to_server, Saying([*responses], status))) as channel:
        return await generate(channel, lm.GenerateRequest(), 10.0, lambda: None)


async def test_outputs_are_put_together_by_their_index_with_the_numbers_of_the_prompt_before_them() -> None:
    position = lm.PositionLogprobs(
        chosen=lm.TokenLogprob(token_id=3, logprob=-0.5), top=[lm.TokenLogprob(token_id=4, logprob=-0.25)]
    )
    middle = lm.GenerateResponse(index=1, text="b", token_ids=[7], prompt_logprobs=[position])
    answer = await generated(START, middle, last(0, text="a", token_ids=[3], logprobs=[position]), last(1, text="c"))

    name = "FINISH_REASON_STOP"
    outputs = (Output(numbers=(-0.5, -0.25)), Output("a", (3,), (-0.5, -0.25), name), Output("bc", (7,), (), name))
    assert answer == Answer(outputs, 5, 4)


@pytest.mark.parametrize(
    ("responses", "status", "words"),
    [
        ([START], grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE: died"),
        ([START], None, "did not all end"),
        ([START, lm.GenerateResponse(text="a")], None, "did not all end"),
        ([START, START, last(0)], None, "2 starts"),
        ([last(0)], None, "0 starts"),
        ([START, last(0), last(0)], None, "goes on after its end"),
    ],
)
async def test_what_is_no_whole_answer_fails(
    responses: list[lm.GenerateResponse], status: grpc.StatusCode | None, words: str
) -> None:
    with pytest.raises(Failed, match=words):
        await generated(*responses, status=status)


async def test_scores_and_tokens_are_outputs_too() -> None:
    async with serve_in_process((add_LanguageModelServicer_to_server, Saying([]))) as channel:
        assert await score(channel, lm.ScoreRequest(), 10.0) == Answer((Output("", (1, 2), (-0.5, -1.0)),), 2)
        assert await tokenize(channel, lm.TokenizeRequest(), 10.0) == Answer((Output("", (4, 5)),))

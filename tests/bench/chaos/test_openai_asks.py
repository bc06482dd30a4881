"""Answers of OpenAI's protocol read from a server: the same whole, whatever the chunks; errors and cut streams fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import httpx
import orjson
import pytest

from bench.chaos.answer import Answer, Failed, Output
from bench.chaos.openai_asks import CHAT, TEXT, stream, whole

USAGE = {"usage": {"prompt_tokens": 3, "completion_tokens": 4}}


def client(answer: Callable[[httpx.Request], httpx.Response]) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.MockTransport(answer), base_url="http://test")


def events(bodies: Sequence[object], end: str = "data: [DONE]\n\n") -> httpx.Response:
    lines = "".join(f"data: {orjson.dumps(body).decode()}\n\n" for body in bodies)
    return httpx.Response(200, text=lines + end)


def chunk(index: int, finish_reason: str | None = None, **delta: Any) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": delta, "finish_reason": finish_reason}]}


def nothing() -> None:
    pass


async def test_chunks_of_several_choices_join_by_their_index() -> None:
    call = {"index": 0, "function": {"name": "f", "arguments": '{"a"'}}
    rest = {"index": 0, "function": {"arguments": ": 1}"}}
    bodies = [
        chunk(1, content="b"), chunk(0, content="a", role="assistant"), chunk(1, content="c"),
        chunk(0, tool_calls=[call]), chunk(0, tool_calls=[rest]), chunk(0, "tool_calls"), chunk(1, "stop"),
        {"choices": [], **USAGE},
    ]  # fmt: skip
    parts: list[None] = []

    async with client(lambda request: events(bodies)) as http:
        answer = await stream(http, CHAT, {}, lambda: parts.append(None))

    first = Output("a", finish_reason="tool_calls", calls=(("f", '{"a": 1}'),))
    assert answer == Answer((first, Output("bc", finish_reason="stop")), 3, 4)
    assert len(parts) == len(bodies) + 1


async def test_a_streamed_text_and_a_whole_one_have_the_same_numbers_in_the_same_order() -> None:
    def logprobs(*tokens: tuple[float, float, int]) -> dict[str, object]:
        return {
            "token_logprobs": [token[0] for token in tokens],
            "top_logprobs": [{"x": token[1]} for token in tokens],
            "text_offset": [token[2] for token in tokens],
        }

    one, two = (-0.5, -0.25, 0), (-1.0, -0.75, 2)
    parts = [{"index": 0, "text": text, "logprobs": logprobs(token)} for text, token in (("ab", one), ("c", two))]
    together = {"index": 0, "text": "abc", "logprobs": logprobs(one, two)}

    async with client(
        lambda request: events([*({"choices": [part]} for part in parts), {"choices": [], **USAGE}])
    ) as http:
        streamed = await stream(http, TEXT, {}, nothing)
    async with client(lambda request: httpx.Response(200, json={"choices": [together], **USAGE})) as http:
        at_once = await whole(http, TEXT, {}, nothing)

    assert streamed == at_once
    assert streamed.outputs[0].numbers == (-0.5, -0.25, 0, -1.0, -0.75, 2)


@pytest.mark.parametrize(
    ("response", "words"),
    [
        (httpx.Response(503, text="nobody"), "503: nobody"),
        (events([{"error": {"message": "died"}}]), "died"),
        (events([chunk(0, content="a"), {"choices": [], **USAGE}], end=""), "without"),
        (events([chunk(0, content="a")]), "no usage"),
    ],
)
async def test_an_error_and_a_stream_that_is_cut_off_are_failures(response: httpx.Response, words: str) -> None:
    async with client(lambda request: response) as http:
        with pytest.raises(Failed, match=words):
            await stream(http, CHAT, {}, nothing)


async def test_a_connection_that_breaks_is_a_failure() -> None:
    def broken(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("reset")

    async with client(broken) as http:
        for send in (stream, whole):
            with pytest.raises(Failed, match="ReadError: reset"):
                await send(http, CHAT, {}, nothing)

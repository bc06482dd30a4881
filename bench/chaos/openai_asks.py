"""Requests as OpenAI's clients send them, streamed or not, and what came for them as an Answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import httpx
import orjson

from bench.chaos.answer import Answer, Failed, Growing

# Any: bodies of a foreign protocol, read as they come.
Json = Mapping[str, Any]

CHAT, TEXT = "/v1/chat/completions", "/v1/completions"
_DATA = "data: "
_DONE = "[DONE]"


async def stream(http: httpx.AsyncClient, path: str, body: Json, heard: Callable[[], None]) -> Answer:
    """The answer to a streamed request; `heard` is called for each event. Raises Failed."""
    reading = _Reading()
    is_done = False
    try:
        async with http.stream("POST", path, json={**body, "stream": True, **_WITH_USAGE}) as response:
            if response.status_code != 200:
                await response.aread()
                raise Failed(f"{response.status_code}: {response.text[:300]}")
            async for line in response.aiter_lines():
                if not line.startswith(_DATA):
                    continue
                heard()
                is_done = line[len(_DATA) :] == _DONE
                if not is_done:
                    reading.take(orjson.loads(line[len(_DATA) :]), "delta")
    except httpx.HTTPError as error:
        raise Failed(f"{type(error).__name__}: {error}") from error
    if not is_done:
        raise Failed("the stream ended without [DONE]")
    return reading.answer()


async def whole(http: httpx.AsyncClient, path: str, body: Json, heard: Callable[[], None]) -> Answer:
    """The answer to a request that does not stream. Raises Failed."""
    reading = _Reading()
    reading.take(await post(http, path, body), "message")
    heard()
    return reading.answer()


async def post(http: httpx.AsyncClient, path: str, body: Json) -> Json:
    """The JSON that answers. Raises Failed."""
    try:
        response = await http.post(path, json=body)
    except httpx.HTTPError as error:
        raise Failed(f"{type(error).__name__}: {error}") from error
    if response.status_code != 200:
        raise Failed(f"{response.status_code}: {response.text[:300]}")
    found: Json = orjson.loads(response.content)
    return found


_WITH_USAGE = {"stream_options": {"include_usage": True}}


class _Reading:
    """Bodies and chunks of both kinds of completion, put together by choice."""

    def __init__(self) -> None:
        self._outputs: dict[int, Growing] = {}
        self._usage: Json = {}

    def take(self, body: Json, part: str) -> None:
        """part: under which name a chat choice has its message. Raises Failed for an error."""
        if "error" in body:
            raise Failed(str(body["error"])[:300])
        for choice in body["choices"]:
            output = self._outputs.setdefault(choice["index"], Growing())
            message = choice.get(part) or {}
            output.text += choice.get("text") or message.get("content") or ""
            output.finish_reason = choice.get("finish_reason") or output.finish_reason
            output.numbers += _numbers(choice.get("logprobs") or {})
            for index, call in enumerate(message.get("tool_calls") or ()):
                function = call["function"]
                output.add_call(call.get("index", index), function.get("name") or "", function.get("arguments") or "")
        self._usage = body.get("usage") or self._usage

    def answer(self) -> Answer:
        if not self._usage:
            raise Failed("the answer has no usage")
        return Answer(
            tuple(output.whole() for _, output in sorted(self._outputs.items())),
            self._usage["prompt_tokens"],
            self._usage["completion_tokens"],
        )


def _numbers(logprobs: Json) -> list[float]:
    """Token by token, for chunks may end anywhere: its log-probability, the likeliest ones', its place in the text."""
    numbers: list[float] = []
    for token in logprobs.get("content") or ():
        numbers += [token["logprob"], *(top["logprob"] for top in token["top_logprobs"])]
    if "token_logprobs" in logprobs:
        lists = (logprobs[name] for name in ("token_logprobs", "top_logprobs", "text_offset"))
        for logprob, top, offset in zip(*lists, strict=True):
            numbers += [-1.0 if logprob is None else logprob, *(top or {}).values(), offset]
    return numbers

"""A language model behind a gateway for its tests, with the transformer that would stand before it.

It obeys what a request asks for as far as a client can tell: n outputs in turn, an echo, log-probabilities, a guide, a
tool call, words to go on from. What a prompt holds decides what goes wrong.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

from mesh.errors import InvalidInput, Overloaded, PromptTooLong, Unavailable
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.language_model_pb2_grpc import LanguageModelServicer

Context = Any  # grpc.aio.ServicerContext, which cannot be subscripted

DIGEST = "ab" * 32
END_OF_TEXT = 2


@dataclass
class FakeLanguageModel(LanguageModelServicer):
    """Says `words`, one a message; output i > 0 has its number after the first word."""

    words: tuple[str, ...] = ("Hello", " wörld", "!")
    requests: list[lm.GenerateRequest] = field(default_factory=list)
    tokenized: list[lm.TokenizeRequest] = field(default_factory=list)
    metadata: list[dict[str, str]] = field(default_factory=list)
    deadlines: list[float | None] = field(default_factory=list)
    started: asyncio.Event = field(default_factory=asyncio.Event)
    another_started: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    gate: asyncio.Event = field(default_factory=asyncio.Event)

    async def Generate(self, request: lm.GenerateRequest, context: Context) -> AsyncIterator[lm.GenerateResponse]:
        self.requests.append(request)
        self.metadata.append({str(key): str(value) for key, value in context.invocation_metadata() or ()})
        self.deadlines.append(context.time_remaining())
        text = request.text or "".join(message.content for message in request.messages.messages)
        _refuse(request, text)
        (self.another_started if self.started.is_set() else self.started).set()
        try:
            async for response in self._say(request, text):
                yield response
        except (asyncio.CancelledError, GeneratorExit):
            self.cancelled.set()
            raise

    async def _say(self, request: lm.GenerateRequest, text: str) -> AsyncIterator[lm.GenerateResponse]:
        for message in _opening(request, text):
            yield message
        first = request.sampling.sample_index
        outputs = range(first, first + (request.sampling.n or 1))
        if _calls_tool(request, text):
            for message in _tool_call(request):
                yield message
            return
        words = (
            [] if request.sampling.max_tokens == 0 and request.sampling.HasField("max_tokens") else self._words(request)
        )
        for index, word in list(enumerate(words))[len(request.continue_from) :]:
            if "once another started" in text:
                await self.another_started.wait()
            if "fails midway" in text and index == 1:
                raise Unavailable("the replica went away")
            if "waits" in text and index == 1:
                await self.gate.wait()
            for output in reversed(outputs):
                said = f"{word}{output}" if index == 0 and output else word
                yield _token(request, output, 100 + index, said)
        for output in outputs:
            if "half an answer" in text and output == outputs[-1]:
                return
            for message in _ending(request, output, len(words)):
                yield message

    def _words(self, request: lm.GenerateRequest) -> list[str]:
        guide = request.sampling.guide
        match guide.WhichOneof("kind"):
            case "json_schema":
                return re.findall(r".{1,4}", json.dumps(example_of(json.loads(guide.json_schema))))
            case "json_object":
                return ["{", "}"]
            case "choices":
                return [guide.choices.texts[0]]
            case _:
                return list(self.words)

    async def Score(self, request: lm.ScoreRequest, context: Context) -> lm.ScoreResponse:
        return lm.ScoreResponse(model_name=request.model_name, model_version="1")

    async def Tokenize(self, request: lm.TokenizeRequest, context: Context) -> lm.TokenizeResponse:
        self.tokenized.append(request)
        return lm.TokenizeResponse(token_ids=[1, 2, 3, 4, 5])

    async def Detokenize(self, request: lm.DetokenizeRequest, context: Context) -> lm.DetokenizeResponse:
        return lm.DetokenizeResponse(text=" ".join(str(token_id) for token_id in request.token_ids))

    async def DescribeModel(self, request: lm.DescribeModelRequest, context: Context) -> lm.DescribeModelResponse:
        return lm.DescribeModelResponse(
            model_name=request.model_name, model_version="1", vocab_size=9, max_context_tokens=64
        )


def _refuse(request: lm.GenerateRequest, text: str) -> None:
    if "too long" in text:
        raise PromptTooLong("prompt has 5120 tokens; model 'chat' takes 4096", field="messages")
    if "busy" in text:
        raise Overloaded("the queue is full", retry_after_s=3)
    if request.sampling.guide.regex == "(":
        raise InvalidInput("the regular expression has an unclosed group at 0", field="guide")


def example_of(schema: dict[str, Any]) -> Any:
    """A small value that fits a schema of the kind that pydantic makes."""
    match schema.get("type"):
        case "object":
            return {name: example_of(inner) for name, inner in schema.get("properties", {}).items()}
        case "array":
            return [example_of(schema["items"])]
        case "integer":
            return 7
        case _:
            return "Paris"


def _pieces(text: str) -> list[str]:
    """The prompt's tokens: words, each with the space before it."""
    return re.findall(r"\s*\S+", text)


def _opening(request: lm.GenerateRequest, text: str) -> Iterator[lm.GenerateResponse]:
    start = lm.GenerationStart(
        model_name=request.model_name,
        model_version="1",
        model_digest=DIGEST,
        seed=request.sampling.seed or 42,
        prompt_tokens=5,
        rendered_prompt=f"<user>{text}</user>" if request.HasField("messages") else "",
        replica="fake:1",
    )
    pieces = _pieces(text)
    if request.echo:
        start.prompt_text = text
        start.prompt_token_ids.extend(range(50, 50 + len(pieces)))
    yield lm.GenerateResponse(start=start)
    if request.sampling.HasField("prompt_logprobs"):
        for number, piece in list(enumerate(pieces))[1:]:
            position = _position(50 + number, piece, request.sampling.prompt_logprobs)
            yield lm.GenerateResponse(prompt_logprobs=[position])


def _position(token_id: int, text: str, num_top: int) -> lm.PositionLogprobs:
    """The chosen token is the second likeliest."""
    chosen = lm.TokenLogprob(token_id=token_id, text=text, logprob=-0.5, token_bytes=text.encode())
    likeliest = lm.TokenLogprob(token_id=9, text="?", logprob=-0.25, token_bytes=b"?")
    others = (lm.TokenLogprob(token_id=10 + rank, text=f"<{rank}>", logprob=-1.0 - rank) for rank in range(num_top))
    return lm.PositionLogprobs(chosen=chosen, top=[likeliest, chosen, *others][:num_top])


def _token(request: lm.GenerateRequest, output: int, token_id: int, text: str) -> lm.GenerateResponse:
    message = lm.GenerateResponse(index=output, text=text, token_ids=[token_id])
    if request.sampling.HasField("logprobs"):
        message.logprobs.append(_position(token_id, text, request.sampling.logprobs))
    return message


def _ending(request: lm.GenerateRequest, output: int, num_tokens: int) -> Iterator[lm.GenerateResponse]:
    if request.echo and num_tokens:
        yield _token(request, output, END_OF_TEXT, "")
    yield lm.GenerateResponse(
        index=output,
        finish_reason=lm.FINISH_REASON_STOP if num_tokens else lm.FINISH_REASON_LENGTH,
        usage=lm.Usage(prompt_tokens=5, cached_tokens=2, output_tokens=num_tokens),
        timings=lm.Timings(queue_s=0.001, first_token_s=0.01, total_s=0.02),
        matched_stop=next(iter(request.sampling.stop), ""),
    )


def _calls_tool(request: lm.GenerateRequest, text: str) -> bool:
    choice = request.messages.tool_choice or "auto"
    is_asked = choice not in ("auto", "none") or (choice == "auto" and "weather" in text)
    answered = any(message.role == "tool" for message in request.messages.messages)
    return bool(request.messages.tools_json) and is_asked and not answered


def _tool_call(request: lm.GenerateRequest) -> Iterator[lm.GenerateResponse]:
    """Two calls of the function that was named, or of the first; the arguments in pieces."""
    tools = {tool["function"]["name"]: tool["function"] for tool in json.loads(request.messages.tools_json)}
    choice = request.messages.tool_choice
    name = choice.removeprefix("function:") if choice.startswith("function:") else next(iter(tools))
    arguments = json.dumps(example_of(tools[name].get("parameters", {"type": "object"})))
    for output in range(request.sampling.n or 1):
        for index in range(2):
            first = lm.ToolCallDelta(index=index, id=f"call_{output}{index}", name=name)
            yield lm.GenerateResponse(index=output, token_ids=[200], tool_calls=[first])
            for piece in re.findall(r".{1,5}", arguments):
                delta = lm.ToolCallDelta(index=index, arguments=piece)
                yield lm.GenerateResponse(index=output, token_ids=[201], tool_calls=[delta])
        yield lm.GenerateResponse(
            index=output,
            finish_reason=lm.FINISH_REASON_TOOL_CALLS,
            usage=lm.Usage(prompt_tokens=5, cached_tokens=2, output_tokens=8),
        )

"""The requests that are repeated, each with one right answer: greedy, or sampled with a seed.

A kind is what a client does (a streamed chat, a score …); an ask is one request of it. The same kinds run against any
language model: nothing here hangs on what it answers.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc.aio
import httpx

from bench.chaos import grpc_asks, openai_asks
from bench.chaos.answer import Answer
from bench.chaos.scenario import Scenario
from mesh import context
from mesh.channel import open_channel
from mesh.oip import open_inference_pb2 as oip
from mesh.tensors import Tensor, encode_request
from mesh.v1 import language_model_pb2 as lm

# Any: bodies of a foreign protocol.
Json = Mapping[str, Any]
Heard = Callable[[], None]

PROMPTS = (
    "Name three colours.",
    "What is the capital of France, and what is it known for?",
    "Write a short poem about the sea.",
    "Explain to a child why the sky is blue.",
    "List five animals that live in the forest, one on each line.",
    "Tell a story about a robot that learns to paint.",
)
_WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a city.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 20}, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}
_PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 16},
        "likes": {"type": "array", "items": {"enum": ["tea", "coffee", "water"]}, "minItems": 2, "maxItems": 6},
        "is_tall": {"type": "boolean"},
    },
    "required": ["name", "likes", "is_tall"],
    "additionalProperties": False,
}
_GREEDY = {"temperature": 0}
_SEEDED = {"temperature": 0.9, "top_p": 0.95, "seed": 7}


class Clients:
    """How the gateway is reached; use as `async with`."""

    def __init__(self, http_url: str, grpc_address: str, timeout_s: float) -> None:
        # A kept connection may be closed by the server just when the next request goes out on it.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        self.http = httpx.AsyncClient(
            base_url=http_url,
            timeout=timeout_s,
            limits=limits,
            trust_env=False,
            event_hooks={"request": [_with_request_id]},
        )
        self.channel: grpc.aio.Channel = open_channel(grpc_address)
        self.timeout_s = timeout_s

    async def __aenter__(self) -> Clients:
        return self

    async def __aexit__(self, *_exception: object) -> None:
        await self.http.aclose()
        await self.channel.close()


async def _with_request_id(request: httpx.Request) -> None:
    """The channel's interceptors do the same for calls over gRPC."""
    request_context = context.current()
    if request_context is not None:
        request.headers[context.REQUEST_ID_HEADER] = request_context.request_id


@dataclass(frozen=True, slots=True)
class Ask:
    """One request. `send` calls what it is given for each part that comes, and raises Failed."""

    kind: str
    number: int
    send: Callable[[Clients, Heard], Awaitable[Answer]]

    @property
    def name(self) -> str:
        return f"{self.kind} {self.number}"


def asks_of(scenario: Scenario, num_prompts: int = len(PROMPTS), max_tokens: int = 96) -> list[Ask]:
    """All asks: each kind with each prompt. max_tokens: of the longest output; others are shorter."""
    found = []
    for number, prompt in enumerate(PROMPTS[:num_prompts]):
        num_tokens = max(8, max_tokens * (number + 1) // num_prompts)
        sends = (
            *_chats(scenario.language_model, prompt, num_tokens),
            *_texts(scenario.language_model, prompt, num_tokens),
            *_generates(scenario.language_model, prompt, num_tokens),
            *_reads(scenario.language_model, prompt),
            *_tables(scenario.table_model, scenario.table_inputs),
        )
        found += [Ask(kind, number, send) for kind, send in sends]
    return found


Send = Callable[[Clients, Heard], Awaitable[Answer]]
Sends = Iterator[tuple[str, Send]]


def _chats(model: str, prompt: str, num_tokens: int) -> Sends:
    def chat(**fields: object) -> Json:
        return {"model": model, "messages": [{"role": "user", "content": prompt}], "max_tokens": num_tokens, **fields}

    schema = {"type": "json_schema", "json_schema": {"name": "person", "schema": _PERSON, "strict": True}}
    forced = {"type": "function", "function": {"name": "get_weather"}}
    bodies = {
        "chat": chat(**_GREEDY),
        "chat, seeded": chat(**_SEEDED),
        "chat, logprobs": chat(**_GREEDY, logprobs=True, top_logprobs=3),
        "chat, n 2": chat(**_SEEDED, n=2),
        "chat, stop": chat(**_GREEDY, stop=["e ", ". ", "\n\n"], min_tokens=num_tokens // 2),
        "chat, schema": chat(**_GREEDY, response_format=schema),
        "chat, tool": chat(**_GREEDY, tools=[_WEATHER], tool_choice=forced),
    }
    for kind, body in bodies.items():
        yield kind, _streamed(openai_asks.CHAT, body)
    yield "chat, whole", _whole(openai_asks.CHAT, bodies["chat"])
    yield "chat, whole, tool", _whole(openai_asks.CHAT, bodies["chat, tool"])


def _texts(model: str, prompt: str, num_tokens: int) -> Sends:
    def text(**fields: object) -> Json:
        return {"model": model, "prompt": prompt, "max_tokens": num_tokens, **fields}

    yield "text", _streamed(openai_asks.TEXT, text(**_GREEDY, ignore_eos=True))
    yield "text, logprobs", _streamed(openai_asks.TEXT, text(**_SEEDED, logprobs=2))
    yield "text, penalties", _streamed(openai_asks.TEXT, text(**_GREEDY, frequency_penalty=0.7, presence_penalty=0.3))


def _generates(model: str, prompt: str, num_tokens: int) -> Sends:
    def generate(**sampling: Any) -> lm.GenerateRequest:
        parameters = lm.SamplingParameters(**{"max_tokens": num_tokens, **sampling})
        return lm.GenerateRequest(model_name=model, text=prompt, sampling=parameters)

    requests = {
        "Generate": generate(temperature=0, ignore_eos=True),
        "Generate, n 3": generate(temperature=0.9, seed=11, n=3),
        "Generate, logprobs": generate(temperature=0.9, seed=5, logprobs=2, prompt_logprobs=1),
        "Generate, regex": generate(temperature=0, guide=lm.Guide(regex="[a-z ]{20,60}\\.")),
    }
    for kind, request in requests.items():
        yield kind, _generated(request)
    conversation = lm.ChatMessages(messages=[lm.ChatMessage(role="user", content=prompt)])
    sampling = lm.SamplingParameters(temperature=0, max_tokens=num_tokens)
    yield (
        "Generate, messages",
        _generated(lm.GenerateRequest(model_name=model, messages=conversation, sampling=sampling)),
    )


def _reads(model: str, prompt: str) -> Sends:
    scored = lm.ScoreRequest(model_name=model, items=[lm.ScoreRequest.Item(text=prompt, target_text=" Red, green.")])
    tokenized = lm.TokenizeRequest(model_name=model, text=prompt)
    yield "Score", lambda clients, heard: grpc_asks.score(clients.channel, scored, clients.timeout_s)
    yield "Tokenize", lambda clients, heard: grpc_asks.tokenize(clients.channel, tokenized, clients.timeout_s)


def _tables(model: str, inputs: Sequence[Tensor]) -> Sends:
    request = oip.ModelInferRequest(model_name=model)
    encode_request(request, inputs)
    yield "ModelInfer", lambda clients, heard: grpc_asks.infer(clients.channel, request, clients.timeout_s)


def _streamed(path: str, body: Json) -> Send:
    return lambda clients, heard: openai_asks.stream(clients.http, path, body, heard)


def _whole(path: str, body: Json) -> Send:
    return lambda clients, heard: openai_asks.whole(clients.http, path, body, heard)


def _generated(request: lm.GenerateRequest) -> Send:
    return lambda clients, heard: grpc_asks.generate(clients.channel, request, clients.timeout_s, heard)

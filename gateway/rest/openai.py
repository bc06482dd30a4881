"""OpenAI's chat completions, completions and models over the mesh's LanguageModel.

Each choice of a request is one generation; the choices of one request run at the same time, and their chunks go out as
they come. When one of them fails, all end. Reference: the OpenAI API's "Chat", "Completions" and "Models" pages.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from opentelemetry import trace
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gateway.dataplane import Dataplane
from gateway.exchange import Exchange
from gateway.rest import bodies, sse
from gateway.rest.bodies import Json, json_response
from gateway.rest.errors import V1, protocol_of
from gateway.rest.merging import merged
from gateway.rest.openai_chunks import Bodies, ChatBodies, Choice, TextBodies, usage_json
from gateway.rest.openai_requests import ChatCompletionRequest, CompletionRequest, parse_request
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.registry_pb2 import Deployment

OWNER = "meshserve"

AnyRequest = ChatCompletionRequest | CompletionRequest


class OpenAIRoutes:
    """Handlers of OpenAI's routes."""

    def __init__(self, dataplane: Dataplane, wall_clock: Callable[[], float] = time.time) -> None:
        self._dataplane = dataplane
        self._wall_clock = wall_clock
        self._started = int(wall_clock())

    async def chat_completions(self, request: Request) -> Response:
        """POST /v1/chat/completions"""
        asked = parse_request(ChatCompletionRequest, await bodies.read_object(request))
        exchange = sse.exchange_of(request)
        envelope = ChatBodies(f"chatcmpl-{exchange.request_id}", int(self._wall_clock()), asked.model)
        return await self._complete(asked, asked.to_generate(), envelope, exchange)

    async def completions(self, request: Request) -> Response:
        """POST /v1/completions"""
        asked = parse_request(CompletionRequest, await bodies.read_object(request))
        exchange = sse.exchange_of(request)
        envelope = TextBodies(f"cmpl-{exchange.request_id}", int(self._wall_clock()), asked.model)
        return await self._complete(asked, asked.to_generate(), envelope, exchange)

    async def list_models(self, request: Request) -> Response:
        """GET /v1/models: OpenAI's list, or V1's own with ?format=v1."""
        deployments = self._dataplane.deployments()
        if request.query_params.get("format") == "v1":
            return json_response({"models": [deployment.name for deployment in deployments]})
        return json_response({"object": "list", "data": [self._model(deployment) for deployment in deployments]})

    async def get_model(self, request: Request) -> Response:
        """GET /v1/models/{model}: one object that is OpenAI's model and V1's readiness."""
        name = request.path_params["model"]
        if protocol_of(request.url.path) == V1:  # the router takes "iris:predict" for a name
            raise HTTPException(405, headers={"Allow": "POST"})
        deployment = self._dataplane.deployment(name, sse.exchange_of(request))
        return json_response(self._model(deployment) | {"name": name, "ready": self._dataplane.is_ready(name)})

    def _model(self, deployment: Deployment) -> dict[str, Json]:
        return {"id": deployment.name, "object": "model", "created": self._started, "owned_by": OWNER}

    async def _complete(
        self, asked: AnyRequest, requests: list[lm.GenerateRequest], envelope: Bodies, exchange: Exchange
    ) -> Response:
        deployment = self._dataplane.language_model(asked.model, exchange)
        _annotate_request(deployment.name, envelope)
        choices = [Choice(index) for index in range(len(requests))]
        messages = merged([self._dataplane.generate(request, exchange) for request in requests])
        if asked.stream:
            return await sse.stream_events(_chunks(asked, envelope, choices, messages), exchange)
        async with aclosing(messages):
            async for index, message in messages:
                choices[index].add(message)
        _annotate_response(choices, asked.num_choices)
        usage = usage_json(choices, asked.num_choices)
        return json_response(envelope.whole(choices, usage, with_logprobs=_wants_logprobs(asked)))


async def _chunks(
    asked: AnyRequest,
    envelope: Bodies,
    choices: Sequence[Choice],
    messages: AsyncGenerator[tuple[int, lm.GenerateResponse], None],
) -> AsyncGenerator[bytes, None]:
    """The events of a streamed response."""
    # With include_usage every chunk but the last says that its usage is null.
    common: dict[str, Json] = {"usage": None} if asked.wants_usage else {}
    with_logprobs = _wants_logprobs(asked)
    async with aclosing(messages):
        async for index, message in messages:
            choice = choices[index]
            choice.add(message)
            logprobs = choice.logprobs if with_logprobs else ()
            if message.HasField("start") and (opening := envelope.first_chunk(choice)) is not None:
                yield sse.event(opening | common)
            if message.text or logprobs:
                yield sse.event(envelope.chunk(choice, message.text, logprobs) | common)
            if choice.finish_reason is not None:
                yield sse.event(envelope.last_chunk(choice) | common)
            choice.forget_sent()
    _annotate_response(choices, asked.num_choices)
    if asked.wants_usage:
        yield sse.event(envelope.usage_chunk(choices[0], usage_json(choices, asked.num_choices)))
    yield sse.DONE


def _wants_logprobs(asked: AnyRequest) -> bool:
    # False in a chat request means none; 0 in a text completion means the chosen tokens only.
    return asked.logprobs is not None and asked.logprobs is not False


def _annotate_request(model: str, envelope: Bodies) -> None:
    """GenAI attributes of OpenTelemetry's semantic conventions."""
    span = trace.get_current_span()
    span.set_attribute("gen_ai.operation.name", "chat" if isinstance(envelope, ChatBodies) else "text_completion")
    span.set_attribute("gen_ai.provider.name", OWNER)
    span.set_attribute("gen_ai.request.model", model)


def _annotate_response(choices: Sequence[Choice], num_choices: int) -> None:
    span = trace.get_current_span()
    usage = usage_json(choices, num_choices)
    span.set_attribute("gen_ai.usage.input_tokens", usage["prompt_tokens"])
    span.set_attribute("gen_ai.usage.output_tokens", usage["completion_tokens"])
    reasons = [choice.finish_reason for choice in choices if choice.finish_reason]
    span.set_attribute("gen_ai.response.finish_reasons", reasons)

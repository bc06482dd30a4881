"""OpenAI's chat completions, completions and models over the mesh's LanguageModel.

Each prompt of a request is one generation, whose outputs are its choices; all run at the same time, and their chunks go
out as they come. When one of them fails, all end. Reference: the OpenAI API's "Chat", "Completions" and "Models" pages.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TypeVar

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from gateway.dataplane import Dataplane
from gateway.exchange import Exchange
from gateway.rest import bodies, sse
from gateway.rest.bodies import Json, json_response
from gateway.rest.errors import V1, protocol_of
from gateway.rest.genai_span import PROVIDER, annotate_request, annotate_response
from gateway.rest.openai_choices import Choice, Choices
from gateway.rest.openai_chunks import Bodies, ChatBodies, TextBodies
from gateway.rest.openai_requests import AnswerForm, ChatCompletionRequest, CompletionRequest, parse_request
from mesh.errors import InvalidInput
from mesh.merging import merged
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.registry_pb2 import Deployment

T = TypeVar("T")

AnyRequest = ChatCompletionRequest | CompletionRequest
# (number of the prompt, message about one of its outputs)
Messages = AsyncGenerator[tuple[int, lm.GenerateResponse], None]


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
        return {"id": deployment.name, "object": "model", "created": self._started, "owned_by": PROVIDER}

    async def _complete(
        self, asked: AnyRequest, requests: list[lm.GenerateRequest], envelope: Bodies, exchange: Exchange
    ) -> Response:
        deployment = self._dataplane.language_model(asked.model, exchange)
        annotate_request("chat" if isinstance(envelope, ChatBodies) else "text_completion", deployment.name)
        choices = Choices(len(requests), asked.form())
        generations = [self._dataplane.generate(request, exchange) for request in requests]
        messages = _in_clients_words(merged(generations), asked)
        if asked.stream:
            return await sse.stream_events(_events(envelope, choices, messages), exchange)
        async with aclosing(messages):
            async for number, message in messages:
                choices.add(number, message)
        choices.check_ended()
        _annotate_response(choices)
        return await _built(lambda: json_response(envelope.whole(choices.all, choices.usage())), choices.form)


async def _events(envelope: Bodies, choices: Choices, messages: Messages) -> AsyncGenerator[bytes, None]:
    """The events of a streamed response."""
    # With include_usage every chunk but the last says that its usage is null.
    common: dict[str, Json] = {"usage": None} if choices.form.wants_usage else {}
    async with aclosing(messages):
        async for number, message in messages:
            for choice in choices.add(number, message):
                for event in await _choice_events(envelope, choice, common):
                    yield event
    choices.check_ended()
    _annotate_response(choices)
    if choices.form.wants_usage:
        yield sse.event(envelope.usage_chunk(choices.all[0], choices.usage()))
    yield sse.DONE


async def _choice_events(envelope: Bodies, choice: Choice, common: dict[str, Json]) -> list[bytes]:
    """What the choice has to tell now."""

    def build() -> list[bytes]:
        return [sse.event(chunk | common) for chunk in envelope.chunks(choice)]

    return build() if choice.is_open else await _built(build, choice.form)


async def _built(build: Callable[[], T], form: AnswerForm) -> T:
    """`build()`; in a thread when it may write very many log-probabilities: the event loop serves others meanwhile."""
    return await asyncio.to_thread(build) if form.entries_per_prompt_token else build()


async def _in_clients_words(messages: Messages, asked: AnyRequest) -> Messages:
    """`messages`; an error among them names the field as the client did."""
    try:
        async with aclosing(messages):
            async for message in messages:
                yield message
    except InvalidInput as error:
        if error.field is not None:
            error.field = asked.field_of(error.field)
        raise


def _annotate_response(choices: Choices) -> None:
    usage = choices.usage()
    reasons = [choice.finish_reason for choice in choices.all if choice.finish_reason]
    annotate_response(usage["prompt_tokens"], usage["completion_tokens"], reasons)

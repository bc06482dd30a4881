"""OpenAI's responses over the mesh's LanguageModel. Nothing is kept of them: each request holds its conversation whole.

Reference: the OpenAI API's "Responses".
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response

from gateway.dataplane import Dataplane
from gateway.exchange import Exchange
from gateway.generation import finish_reason_name
from gateway.rest import bodies, sse
from gateway.rest.bodies import json_response
from gateway.rest.genai_span import annotate_request, annotate_response
from gateway.rest.output_parts import OutputParts
from gateway.rest.responses_bodies import ResponseBodies, ResponseEvents
from gateway.rest.responses_requests import ResponsesRequest, parse_request
from mesh.errors import InvalidInput, MeshError
from mesh.v1 import language_model_pb2 as lm

Answers = AsyncGenerator[lm.GenerateResponse, None]


class ResponsesRoutes:
    """The handler of the route."""

    def __init__(self, dataplane: Dataplane, wall_clock: Callable[[], float] = time.time) -> None:
        self._dataplane = dataplane
        self._wall_clock = wall_clock

    async def create(self, request: Request) -> Response:
        """POST /v1/responses"""
        asked = parse_request(await bodies.read_object(request))
        exchange = sse.exchange_of(request)
        generate = asked.to_generate()
        self._dataplane.language_model(asked.model, exchange)
        annotate_request("chat", asked.model)
        envelope = ResponseBodies(exchange.request_id, int(self._wall_clock()), asked)
        parts = OutputParts(one_call=asked.one_call)
        answers = _in_clients_words(self._dataplane.generate(generate, exchange), asked)
        if asked.stream:
            return await _streamed(envelope, parts, answers, exchange)
        async with aclosing(answers):
            async for answer in answers:
                for _ in parts.add(answer):
                    pass
        _end(parts)
        return json_response(envelope.whole(parts))


async def _streamed(envelope: ResponseBodies, parts: OutputParts, answers: Answers, exchange: Exchange) -> Response:
    events = ResponseEvents(envelope)

    def failing(error: MeshError) -> bytes:
        return b"".join(sse.named_event(event) for event in events.failing(parts, error))

    return await sse.stream_events(_events(events, parts, answers), exchange, failing)


async def _events(events: ResponseEvents, parts: OutputParts, answers: Answers) -> AsyncGenerator[bytes, None]:
    """The events of a streamed response."""
    is_open = False
    async with aclosing(answers):
        async for answer in answers:
            if not is_open:
                is_open = True
                for event in events.opening():
                    yield sse.named_event(event)
            for change in parts.add(answer):
                for event in events.changed(change, parts):
                    yield sse.named_event(event)
    _end(parts)
    for event in events.closing(parts):
        yield sse.named_event(event)


def _end(parts: OutputParts) -> None:
    parts.check_ended()
    reason = finish_reason_name(parts.finish_reason)
    annotate_response(parts.usage.prompt_tokens, parts.usage.output_tokens, [reason] if reason else [])


async def _in_clients_words(answers: Answers, asked: ResponsesRequest) -> Answers:
    """`answers`; an error among them names the field as the client did."""
    try:
        async with aclosing(answers):
            async for answer in answers:
                yield answer
    except InvalidInput as error:
        if error.field is not None:
            error.field = asked.field_of(error.field)
        raise

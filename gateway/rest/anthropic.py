"""Anthropic's messages over the mesh's LanguageModel. Reference: the Anthropic API's "Messages" and "Count tokens"."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response

from gateway.dataplane import Dataplane
from gateway.generation import finish_reason_name
from gateway.rest import bodies, sse
from gateway.rest.anthropic_bodies import MessageBodies
from gateway.rest.anthropic_requests import CountTokensRequest, MessagesRequest, parse_request
from gateway.rest.bodies import json_response
from gateway.rest.errors import ANTHROPIC, ANTHROPIC_ID_HEADER, error_body
from gateway.rest.genai_span import annotate_request, annotate_response
from gateway.rest.output_parts import OutputParts
from gateway.rest.token_ids import tokenize
from mesh.errors import MeshError
from mesh.v1 import language_model_pb2 as lm


class AnthropicRoutes:
    """Handlers of Anthropic's routes."""

    def __init__(self, dataplane: Dataplane) -> None:
        self._dataplane = dataplane

    async def messages(self, request: Request) -> Response:
        """POST /v1/messages"""
        asked = parse_request(MessagesRequest, await bodies.read_object(request))
        exchange = sse.exchange_of(request)
        generate = asked.to_generate()
        self._dataplane.language_model(asked.model, exchange)
        annotate_request("chat", asked.model)
        envelope = MessageBodies(f"msg_{exchange.request_id}", asked.model)
        parts = OutputParts(one_call=asked.one_call)
        answers = self._dataplane.generate(generate, exchange)
        if asked.stream:
            response = await sse.stream_events(_events(envelope, parts, answers), exchange, _error_event)
        else:
            response = json_response(await _whole(envelope, parts, answers))
        response.headers[ANTHROPIC_ID_HEADER] = exchange.request_id
        return response

    async def count_tokens(self, request: Request) -> Response:
        """POST /v1/messages/count_tokens"""
        asked = parse_request(CountTokensRequest, await bodies.read_object(request))
        exchange = sse.exchange_of(request)
        token_ids = await tokenize(asked.to_tokenize(), self._dataplane, exchange)
        response = json_response({"input_tokens": len(token_ids)})
        response.headers[ANTHROPIC_ID_HEADER] = exchange.request_id
        return response


async def _whole(
    envelope: MessageBodies, parts: OutputParts, answers: AsyncGenerator[lm.GenerateResponse, None]
) -> bodies.Json:
    async with aclosing(answers):
        async for answer in answers:
            for _ in parts.add(answer):
                pass
    _end(parts)
    return envelope.whole(parts)


async def _events(
    envelope: MessageBodies, parts: OutputParts, answers: AsyncGenerator[lm.GenerateResponse, None]
) -> AsyncGenerator[bytes, None]:
    """The events of a streamed answer."""
    is_open = False
    async with aclosing(answers):
        async for answer in answers:
            changes = [event for change in parts.add(answer) for event in envelope.changed(change)]
            if not is_open:
                is_open = True
                changes = [*envelope.opening(parts), *changes]
            for event in changes:
                yield sse.named_event(event)
    _end(parts)
    for event in envelope.closing(parts):
        yield sse.named_event(event)


def _end(parts: OutputParts) -> None:
    parts.check_ended()
    reason = finish_reason_name(parts.finish_reason)
    annotate_response(parts.usage.prompt_tokens, parts.usage.output_tokens, [reason] if reason else [])


def _error_event(error: MeshError) -> bytes:
    return sse.named_event(error_body(ANTHROPIC, error) | {"type": "error"})

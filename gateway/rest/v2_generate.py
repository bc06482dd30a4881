"""The generate extension of OIP's REST part: text in, text out, whole or as server-sent events.

Parameters stand beside `text_input` (Triton's way) or under `parameters` (KServe's). The prompt goes to the model as it
is: chat messages are for /v1/chat/completions.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from starlette.requests import Request
from starlette.responses import Response

from gateway.dataplane import Dataplane
from gateway.exchange import Exchange
from gateway.generation import finish_reason_name
from gateway.rest import bodies, sse
from gateway.rest.bodies import Json, json_response
from gateway.rest.sampling import sampling_from_json
from mesh.errors import InvalidInput
from mesh.v1 import language_model_pb2 as lm

# Not parameters of the sampler; `stream` is said by the path.
_OTHER_FIELDS = frozenset({"id", "text_input", "parameters", "stream", "exclude_input_in_output"})


class V2GenerateRoutes:
    """Handlers of /v2/models/{model}[/versions/{version}]/generate and …/generate_stream."""

    def __init__(self, dataplane: Dataplane) -> None:
        self._dataplane = dataplane

    async def generate(self, request: Request) -> Response:
        """POST …/generate: one object with the whole text."""
        asked, body, exchange = await self._read(request)
        text, answer = "", _Answer(body)
        async with aclosing(self._dataplane.generate(asked, exchange)) as messages:
            async for message in messages:
                text += message.text
                answer.add(message)
        if body.get("exclude_input_in_output") is False:
            text = asked.text + text
        return json_response(answer.part(text) | answer.details())

    async def generate_stream(self, request: Request) -> Response:
        """POST …/generate_stream: an event for each new text; the last one has the details."""
        asked, body, exchange = await self._read(request)
        return await sse.stream_events(self._events(asked, body, exchange), exchange)

    async def _events(
        self, asked: lm.GenerateRequest, body: dict[str, Json], exchange: Exchange
    ) -> AsyncGenerator[bytes, None]:
        answer = _Answer(body)
        async with aclosing(self._dataplane.generate(asked, exchange)) as messages:
            async for message in messages:
                answer.add(message)
                if message.finish_reason:
                    yield sse.event(answer.part(message.text) | answer.details())
                elif message.text:
                    yield sse.event(answer.part(message.text))

    async def _read(self, request: Request) -> tuple[lm.GenerateRequest, dict[str, Json], Exchange]:
        exchange = sse.exchange_of(request)
        deployment = self._dataplane.language_model(request.path_params["model"], exchange)
        body = await bodies.read_object(request)
        text = body.get("text_input")
        if not isinstance(text, str):
            raise InvalidInput("'text_input' must be a string", field="text_input")
        nested = body.get("parameters") or {}
        if not isinstance(nested, dict):
            raise InvalidInput("'parameters' must be an object", field="parameters")
        beside = {name: value for name, value in body.items() if name not in _OTHER_FIELDS}
        asked = lm.GenerateRequest(
            model_name=deployment.name,
            model_version=request.path_params.get("version", ""),
            text=text,
            sampling=sampling_from_json({**beside, **nested}, "a generate request"),
        )
        return asked, body, exchange


class _Answer:
    """Puts together the objects of one answer."""

    def __init__(self, body: dict[str, Json]) -> None:
        self._id = body.get("id")
        self._start = lm.GenerationStart()
        self._last = lm.GenerateResponse()

    def add(self, message: lm.GenerateResponse) -> None:
        if message.HasField("start"):
            self._start = message.start
        if message.finish_reason:
            self._last = message

    def part(self, text: str) -> dict[str, Json]:
        body = {"id": self._id} if isinstance(self._id, str) else {}
        return body | {
            "model_name": self._start.model_name,
            "model_version": self._start.model_version,
            "text_output": text,
        }

    def details(self) -> dict[str, Json]:
        usage = self._last.usage
        return {
            "details": {
                "finish_reason": finish_reason_name(self._last.finish_reason),
                "prompt_tokens": usage.prompt_tokens,
                "cached_tokens": usage.cached_tokens,
                "output_tokens": usage.output_tokens,
                "seed": self._start.seed,
            }
        }

"""Server-sent events: a response that is a stream of `data:` lines (HTML Standard, "Server-sent events").

The first event is awaited before the status line goes out, so that what fails before it still has its HTTP status. What
fails later becomes an event in the protocol's own form, and ends the stream.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing

import orjson
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gateway.exchange import Exchange
from gateway.rest.bodies import Json
from gateway.rest.errors import error_body
from mesh.errors import Internal, MeshError
from mesh.logs import get_logger

log = get_logger(__name__)

_HEADERS = {
    "cache-control": "no-cache",
    # Proxies that gather a response before they pass it on would hide that it streams.
    "x-accel-buffering": "no",
}

DONE = b"data: [DONE]\n\n"


def event(value: Json) -> bytes:
    """One event that carries `value` as JSON."""
    return b"data: " + orjson.dumps(value) + b"\n\n"


def named_event(value: Mapping[str, Json]) -> bytes:
    """As `event`, with the value's `type` as the name of the event."""
    return f"event: {value['type']}\n".encode() + event(value)


async def stream_events(
    events: AsyncGenerator[bytes, None], exchange: Exchange, last_event: Callable[[MeshError], bytes] | None = None
) -> Response:
    """A response of `events`, once the first is there. Raises what `events` raises before it.

    last_event: what tells the client of a failure after that, if it is not the error's body alone.
    """
    try:
        first = await anext(events)
    except StopAsyncIteration:
        first = b""
    return EventStream(first, events, exchange, last_event)


class EventStream(Response):
    """Sends events as they come; a client that reads slowly slows their source."""

    def __init__(
        self,
        first: bytes,
        events: AsyncGenerator[bytes, None],
        exchange: Exchange,
        last_event: Callable[[MeshError], bytes] | None = None,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.media_type = "text/event-stream"
        self.body = b""
        self.init_headers(_HEADERS)
        # Without a length: how long it gets is not known yet.
        self.raw_headers = [pair for pair in self.raw_headers if pair[0] != b"content-length"]
        self._first = first
        self._events = events
        self._exchange = exchange
        self._last_event = last_event or self._error_event

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async with aclosing(self._events):
            await send({"type": "http.response.body", "body": self._first, "more_body": True})
            try:
                async for data in self._events:
                    await send({"type": "http.response.body", "body": data, "more_body": True})
            except Exception as error:
                # The status is out: here is the last place that can tell the client.
                await send({"type": "http.response.body", "body": self._end_with(error), "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _end_with(self, error: Exception) -> bytes:
        self._exchange.fail(error)
        if not isinstance(error, MeshError):
            log.error("stream_failed", route=self._exchange.route, exc_info=error)
            error = Internal(f"internal error; the logs have it under request id {self._exchange.request_id}")
        return self._last_event(error)

    def _error_event(self, error: MeshError) -> bytes:
        return event(error_body(self._exchange.protocol, error))


def exchange_of(request: Request) -> Exchange:
    """The exchange that the edge began for this request."""
    exchange: Exchange = request.scope["meshserve.exchange"]
    return exchange

"""The edge of HTTP, around every route: what is true for each request, whatever protocol it speaks.

In this order: the request's id and deadline, the span, the body within its limit and unpacked, then the handler, which
is cancelled when its client goes away; last the status, into the span, the metrics and the prediction log. It is plain
ASGI, since it must see the body and the disconnect before any handler does. What goes back is packed when the client
asks (gateway/answer.py).
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from opentelemetry import trace
from opentelemetry.trace import SpanKind, Status, StatusCode
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gateway.answer import Answer
from gateway.content_coding import coding_of, unpack
from gateway.exchange import Exchange, Recorder, taken_headers
from gateway.rest.bodies import BODY, Body
from gateway.rest.errors import error_response, protocol_of
from mesh import context, tracing
from mesh.errors import (
    ClientCancelled,
    Code,
    DeadlineExceeded,
    Internal,
    InvalidInput,
    MeshError,
    MessageTooLarge,
    Overloaded,
)
from mesh.logs import get_logger

log = get_logger(__name__)
_tracer = tracing.tracer(__name__)

TIMEOUT_HEADER = "x-request-timeout-s"
MAX_TIMEOUT_S = 86_400.0
UNKNOWN_ROUTE = "_unknown"

# Beyond the deadline, in which the next hop's own DEADLINE_EXCEEDED should come: for a client that has stopped reading.
_DEADLINE_SLACK_S = 2.0
# Unpacking this much is quicker than a thread's hand-over; zlib leaves the interpreter to others only in a thread.
_UNPACK_INLINE_BYTES = 1 << 12


class Edge:
    """ASGI middleware; the outermost one."""

    def __init__(
        self,
        app: ASGIApp,
        *,
        recorder: Recorder,
        max_body_bytes: int,
        compress_min_bytes: int,
        body_timeout_s: float,
        request_timeout_s: float,
        max_concurrent_requests: int,
    ) -> None:
        self._app = app
        self._recorder = recorder
        self._max_body_bytes = max_body_bytes
        self._compress_min_bytes = compress_min_bytes
        self._body_timeout_s = body_timeout_s
        self._request_timeout_s = request_timeout_s
        self._max_concurrent_requests = max_concurrent_requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        request_id = context.request_id_from(headers.get(context.REQUEST_ID_HEADER))
        timeout_s, header_error = self._timeout_s(headers.get(TIMEOUT_HEADER))
        request = context.RequestContext(request_id, time.monotonic() + timeout_s, headers.get)
        try:
            request = _with_standing(request, headers)
        except InvalidInput as error:
            header_error = error
        with (
            context.bind(request),
            _span(scope, headers, request_id) as span,
            self._recorder.exchange(protocol_of(scope["path"]), UNKNOWN_ROUTE) as exchange,
        ):
            scope["meshserve.exchange"] = exchange
            coding = _accept_encoding(scope, headers)
            answer = Answer(send, request_id, coding, self._compress_min_bytes, lambda: taken_headers(exchange))
            try:
                if header_error is not None:
                    raise header_error
                async with asyncio.timeout(timeout_s + _DEADLINE_SLACK_S):
                    await self._handle(scope, headers, receive, answer)
            except Exception as error:
                await self._answer_error(error, exchange, answer)
            finally:
                _settle(scope, span, exchange, answer)

    async def _handle(self, scope: Scope, headers: Headers, receive: Receive, answer: Answer) -> None:
        if self._recorder.in_flight > self._max_concurrent_requests:
            raise Overloaded(f"{self._max_concurrent_requests} requests are in flight, and that is the limit")
        coding = coding_of(headers.get("content-encoding"))
        scope[BODY] = await self._read_body(headers, receive)
        async with _cancelled_on_disconnect(receive, answer):
            if coding is not None and scope[BODY]:
                await self._unpack(scope, coding)
            await self._app(scope, _replay(scope), answer.send)

    async def _unpack(self, scope: Scope, coding: str) -> None:
        body = scope.pop(BODY)
        if len(body) <= _UNPACK_INLINE_BYTES:
            scope[BODY] = unpack(coding, body, self._max_body_bytes)
        else:
            scope[BODY] = await asyncio.to_thread(unpack, coding, body, self._max_body_bytes)

    async def _read_body(self, headers: Headers, receive: Receive) -> Body:
        """The whole body. Raises MessageTooLarge as soon as that is known, DeadlineExceeded for a slow client."""
        declared = headers.get("content-length", "0")
        if declared.isdecimal() and int(declared) > self._max_body_bytes:
            raise self._too_large()
        body = bytearray()
        try:
            async with asyncio.timeout(self._body_timeout_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientCancelled("the client went away before its request was complete")
                    chunk: bytes = message.get("body", b"")
                    if len(body) + len(chunk) > self._max_body_bytes:
                        raise self._too_large()
                    if not message.get("more_body", False) and not body:
                        return chunk
                    # Grows in place: a list of chunks, joined, would take twice the memory.
                    body += chunk
                    if not message.get("more_body", False):
                        return body
        except TimeoutError:
            raise SlowBody(f"the body did not arrive within {self._body_timeout_s:g} s") from None

    def _too_large(self) -> MessageTooLarge:
        return MessageTooLarge(f"the body is larger than the limit of {self._max_body_bytes} bytes")

    def _timeout_s(self, value: str | None) -> tuple[float, InvalidInput | None]:
        if value is None:
            return self._request_timeout_s, None
        try:
            timeout_s = float(value)
        except ValueError:
            timeout_s = math.nan
        if 0 < timeout_s <= MAX_TIMEOUT_S:
            return timeout_s, None
        sentence = f"{TIMEOUT_HEADER} must be a number of seconds above 0 and at most {MAX_TIMEOUT_S:g}"
        return self._request_timeout_s, InvalidInput(sentence, field=TIMEOUT_HEADER)

    async def _answer_error(self, error: Exception, exchange: Exchange, answer: Answer) -> None:
        if isinstance(error, TimeoutError):
            error = DeadlineExceeded("the request's time ran out")
        elif not isinstance(error, MeshError):
            log.error("request_failed", exc_info=error)
            error = Internal(f"internal error; the logs have it under request id {exchange.request_id}")
        exchange.fail(error)
        # With the status line out, all that is left is to end the connection, which the server does.
        if not answer.has_begun and not isinstance(error, ClientCancelled):
            response = error_response(exchange.protocol, error)
            if isinstance(error, SlowBody):
                response.headers["connection"] = "close"  # what may still come of the body is nobody's
            await response({"type": "http"}, _no_receive, answer.send)


class SlowBody(DeadlineExceeded):
    """The client took too long to send its request."""

    @property
    def http_status(self) -> int:
        return 408


def _with_standing(request: context.RequestContext, headers: Headers) -> context.RequestContext:
    """`request`, with the tenant, the priority and the session that its client gives. Raises InvalidInput."""
    tenant, priority = headers.get(context.TENANT_HEADER), headers.get(context.PRIORITY_HEADER)
    session = headers.get(context.SESSION_HEADER)
    if tenant is None and priority is None and session is None:
        return request
    return dataclasses.replace(
        request,
        tenant=context.tenant_from(tenant),
        priority=context.priority_from(priority),
        session=context.session_from(session),
    )


@asynccontextmanager
async def _cancelled_on_disconnect(receive: Receive, answer: Answer) -> AsyncIterator[None]:
    """Cancel the block when the client closes its connection; raises ClientCancelled then."""
    handler = asyncio.current_task()
    is_gone = False

    async def watch() -> None:
        nonlocal is_gone
        while (await receive())["type"] != "http.disconnect":
            pass
        # To ASGI, a complete response is a disconnect as well.
        if handler is not None and not answer.is_complete:
            is_gone = True
            handler.cancel()

    watcher = asyncio.create_task(watch())
    try:
        yield
    except asyncio.CancelledError:
        # As asyncio.timeout does: ours to swallow only when nobody else cancelled the task as well.
        if is_gone and handler is not None and handler.uncancel() == 0:
            raise ClientCancelled("the client went away before its answer was complete") from None
        raise
    finally:
        watcher.cancel()


def _replay(scope: Scope) -> Receive:
    """A `receive` that gives the body once, if no handler took it; what comes after it is the edge's to watch."""

    async def receive() -> Message:
        body = scope.pop(BODY, None)
        if body is not None:
            return {"type": "http.request", "body": bytes(body), "more_body": False}
        return await _no_receive()

    return receive


def _accept_encoding(scope: Scope, headers: Headers) -> str | None:
    """The codings that an answer may be packed in; None: in none.

    Of /v2 only inferences are packed: tritonclient.http.aio asks for gzip with every request, and unpacks only these.
    """
    path = scope["path"]
    return None if path.startswith("/v2/") and not path.endswith("/infer") else headers.get("accept-encoding")


async def _no_receive() -> Message:
    await asyncio.Event().wait()
    return {"type": "http.disconnect"}


@contextmanager
def _span(scope: Scope, headers: Headers, request_id: str) -> Iterator[trace.Span]:
    carrier = {name: headers[name] for name in ("traceparent", "tracestate") if name in headers}
    attributes = {
        "http.request.method": scope["method"],
        "url.path": scope["path"],
        "meshserve.request_id": request_id,
    }
    with _tracer.start_as_current_span(
        scope["method"],
        tracing.extract(carrier),
        SpanKind.SERVER,
        attributes,
        record_exception=False,
        set_status_on_exception=False,
    ) as span:
        yield span


def _settle(scope: Scope, span: trace.Span, exchange: Exchange, answer: Answer) -> None:
    """Route and status, into the exchange and the span."""
    route = scope.get("route")
    exchange.route = getattr(route, "path", UNKNOWN_ROUTE)
    was_cut = exchange.code == Code.CANCELLED.name
    status = Code.CANCELLED.http_status if was_cut else answer.status
    exchange.status = str(status)
    span.update_name(f"{scope['method']} {exchange.route}")
    span.set_attribute("http.route", exchange.route)
    span.set_attribute("http.response.status_code", status)
    if exchange.error is not None:
        span.set_status(Status(StatusCode.ERROR, exchange.error))

"""The answering end: takes the calls out of an Exchange, runs their handlers, and gathers what they answer.

While a message is on its way to the peer the next one gathers, so the busier a peer, the more responses share one.
Knows no method: it runs what a server has registered, inside the same interceptor.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextvars import Context
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
import grpc.aio

from mesh.multiplex import INITIAL_CREDIT
from mesh.v1 import multiplex_pb2 as pb
from mesh.v1.multiplex_pb2_grpc import MultiplexServiceServicer

if TYPE_CHECKING:
    # The stubs make these generic; the classes themselves cannot be subscripted.
    Handler = grpc.RpcMethodHandler[Any, Any]

# Above this size no more responses join a message. One that is larger goes alone.
MAX_BATCH_BYTES = 1 << 20


class MultiplexServicer(MultiplexServiceServicer):
    """Register servicers with it as with a server; it keeps their methods with one request and many responses.

    wrap: what the server's interceptor makes of a handler. max_calls: at one time, over one Exchange; more get
    RESOURCE_EXHAUSTED.
    """

    def __init__(self, wrap: Callable[[str, Handler], Handler], max_calls: int) -> None:
        self._wrap = wrap
        self._max_calls = max_calls
        self._handlers: dict[str, Handler] = {}
        self._exchanges: set[_Exchange] = set()
        self._is_draining = False

    def add_registered_method_handlers(self, service: str, method_handlers: Mapping[str, Handler]) -> None:
        """Called by the generated `add_…_to_server`."""
        for name, handler in method_handlers.items():
            if handler.response_streaming and not handler.request_streaming:
                method = f"/{service}/{name}"
                self._handlers[method] = self._wrap(method, handler)

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Called by the generated `add_…_to_server`, with what it registers by name as well."""

    def drain(self) -> None:
        """Refuse new calls from now on, and end each Exchange when its last call has ended."""
        self._is_draining = True
        for exchange in self._exchanges:
            exchange.end()

    async def Exchange(
        self, request_iterator: AsyncIterator[pb.ExchangeRequest], context: object
    ) -> AsyncGenerator[pb.ExchangeResponse, None]:
        exchange = _Exchange(self._handlers, self._max_calls)
        if self._is_draining:
            exchange.end()
        self._exchanges.add(exchange)
        receiving = asyncio.create_task(exchange.receive(request_iterator), name="multiplex-receive")
        try:
            while (response := await exchange.next_response()) is not None:
                yield response
        finally:
            self._exchanges.discard(exchange)
            receiving.cancel()
            await asyncio.gather(receiving, exchange.close(), return_exceptions=True)


class _Exchange:
    """The calls of one Exchange, and what they have answered that is not sent yet."""

    def __init__(self, handlers: Mapping[str, Handler], max_calls: int) -> None:
        self._handlers = handlers
        self._max_calls = max_calls
        self._calls: dict[int, tuple[_CallContext, asyncio.Task[None]]] = {}
        self._ready: deque[tuple[int, bytes | pb.CallStatus]] = deque()
        self._changed = asyncio.Event()
        self._is_ending = False

    async def receive(self, requests: AsyncIterator[pb.ExchangeRequest]) -> None:
        """Do what the peer asks for until it closes its side."""
        async for request in requests:
            for opened in request.opened:
                self._open(opened)
            for credit in request.credits:
                if credit.call_id in self._calls:
                    self._calls[credit.call_id][0].grant(credit.num_responses)
            for call_id in request.cancelled:
                if call_id in self._calls:
                    self._calls[call_id][1].cancel()
        self.end()

    def end(self) -> None:
        """Take no more calls."""
        self._is_ending = True
        self._changed.set()

    async def next_response(self) -> pb.ExchangeResponse | None:
        """All that is ready; waits until there is something. None when nothing can come any more."""
        while not self._ready:
            if self._is_ending and not self._calls:
                return None
            self._changed.clear()
            await self._changed.wait()
        response = pb.ExchangeResponse()
        size_bytes = 0
        while self._ready and size_bytes < MAX_BATCH_BYTES:
            call_id, part = self._ready.popleft()
            if isinstance(part, bytes):
                response.parts.add(call_id=call_id, response=part)
                size_bytes += len(part)
            else:
                response.parts.add(call_id=call_id, status=part)
        return response

    async def close(self) -> None:
        """Cancel what runs, and wait for its end."""
        tasks = [task for _, task in self._calls.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def put(self, call_id: int, part: bytes | pb.CallStatus) -> None:
        self._ready.append((call_id, part))
        self._changed.set()

    def _open(self, opened: pb.OpenCall) -> None:
        handler = self._handlers.get(opened.method)
        if self._is_ending:
            self.put(opened.call_id, _status(grpc.StatusCode.UNAVAILABLE, "the server is ending"))
        elif handler is None:
            self.put(opened.call_id, _status(grpc.StatusCode.UNIMPLEMENTED, f"no method {opened.method}"))
        elif len(self._calls) >= self._max_calls:
            self.put(opened.call_id, _status(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls at one time"))
        elif opened.call_id in self._calls:
            self.put(opened.call_id, _status(grpc.StatusCode.INVALID_ARGUMENT, "the call_id is in use"))
        else:
            context = _CallContext(opened, handler.response_serializer, self.put)
            # In a context of its own: that of the Exchange holds its id and its span, not this request's.
            task = asyncio.get_running_loop().create_task(self._run(handler, opened, context), context=Context())
            self._calls[opened.call_id] = (context, task)

    async def _run(self, handler: Handler, opened: pb.OpenCall, context: _CallContext) -> None:
        timeout_s = opened.timeout_s if opened.HasField("timeout_s") else None
        behaviour: Any = handler.unary_stream
        status = pb.CallStatus()
        try:
            deserialize = handler.request_deserializer
            request = opened.request if deserialize is None else deserialize(opened.request)
            async with asyncio.timeout(timeout_s):
                await behaviour(request, context)
        except _Aborted as aborted:
            status = aborted.status
        except TimeoutError:
            status = _status(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        finally:
            del self._calls[opened.call_id]
            self._changed.set()
        self.put(opened.call_id, status)


class _CallContext:
    """What the interceptor asks of a servicer's context, for one call of an Exchange."""

    def __init__(
        self,
        opened: pb.OpenCall,
        serialize: Callable[[Any], bytes] | None,
        put: Callable[[int, bytes], None],
    ) -> None:
        self._call_id = opened.call_id
        self._metadata = tuple((header.name, header.value) for header in opened.headers)
        self._deadline = time.monotonic() + opened.timeout_s if opened.HasField("timeout_s") else None
        self._serialize = serialize
        self._put = put
        self._credit = INITIAL_CREDIT
        self._has_credit = asyncio.Event()

    def grant(self, num_responses: int) -> None:
        self._credit += num_responses
        self._has_credit.set()

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata

    def time_remaining(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    async def write(self, message: Any) -> None:
        """Send a response; waits while the reader has not taken those before."""
        while not self._credit:
            self._has_credit.clear()
            await self._has_credit.wait()
        self._credit -= 1
        self._put(self._call_id, message if self._serialize is None else self._serialize(message))

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: tuple[tuple[str, str], ...] = ()
    ) -> NoReturn:
        raise _Aborted(_status(code, details, trailing_metadata))


class _Aborted(Exception):
    """The handler ended its call with a status."""

    def __init__(self, status: pb.CallStatus) -> None:
        super().__init__(status.details)
        self.status = status


def _status(code: grpc.StatusCode, details: str, trailers: tuple[tuple[str, str], ...] = ()) -> pb.CallStatus:
    number: int = code.value[0]
    headers = [pb.CallHeader(name=name, value=value) for name, value in trailers]
    return pb.CallStatus(code=number, details=details, trailers=headers)

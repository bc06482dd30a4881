"""The answering end: takes the calls out of an Exchange, runs their handlers, and gathers what they answer.

While a message is on its way to the peer the next one gathers, so the busier a peer, the more responses share one.
Knows no method: it runs what a server has registered, inside the same interceptor.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, cast

import grpc
import grpc.aio

from mesh.load_meter import LoadMeter
from mesh.multiplex import INITIAL_CREDIT
from mesh.multiplex.deadlines import Deadlines
from mesh.v1 import multiplex_pb2 as pb
from mesh.v1.multiplex_pb2_grpc import MultiplexServiceServicer

if TYPE_CHECKING:
    # The stubs make these generic; the classes themselves cannot be subscripted.
    Handler = grpc.RpcMethodHandler[Any, Any]

Find: TypeAlias = "Callable[[str], Handler | None]"
Trailers: TypeAlias = tuple[tuple[str, str | bytes], ...]

# Above this size no more responses join a message. One that is larger goes alone.
MAX_BATCH_BYTES = 1 << 20


class MultiplexServicer(MultiplexServiceServicer):
    """Answers the calls of methods with one request, whatever many responses.

    find: the wrapped handler of a method, None for one that is not served. max_calls: at one time, over one Exchange;
    more get RESOURCE_EXHAUSTED. load: of the server, said with the answers whenever it has changed.
    """

    def __init__(self, find: Find, max_calls: int, load: LoadMeter) -> None:
        self._find = find
        self._max_calls = max_calls
        self._load = load
        self._exchanges: set[_Exchange] = set()
        self._is_draining = False
        self._is_ending = False

    def begin_drain(self) -> None:
        """Tell all peers, those to come as well, that the process is about to end. Calls are taken as before."""
        self._is_draining = True
        for exchange in self._exchanges:
            exchange.begin_drain()

    def end(self) -> None:
        """Refuse new calls from now on, and end each Exchange when its last call has ended."""
        self.begin_drain()
        self._is_ending = True
        for exchange in self._exchanges:
            exchange.end()

    async def Exchange(
        self, request_iterator: AsyncIterator[pb.ExchangeRequest], context: object
    ) -> AsyncGenerator[pb.ExchangeResponse, None]:
        exchange = _Exchange(self._find, self._max_calls, self._load)
        if self._is_draining:
            exchange.begin_drain()
        if self._is_ending:
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

    def __init__(self, find: Find, max_calls: int, load: LoadMeter) -> None:
        self._find = find
        self._max_calls = max_calls
        self._load = load
        self._load_said = b""
        self._calls: dict[int, tuple[_CallContext, asyncio.Task[None]]] = {}
        self._deadlines = Deadlines(self._expire)
        self._ready: deque[pb.CallPart] = deque()
        self._changed = asyncio.Event()
        self._pong = 0
        self._is_draining = False
        self._has_said_so = True
        self._is_ending = False

    async def receive(self, requests: AsyncIterator[pb.ExchangeRequest]) -> None:
        """Do what the peer asks for until it closes its side."""
        async for request in requests:
            if request.ping:
                self._pong = request.ping
                self._changed.set()
            for opened in request.opened:
                self._open(opened)
            for credit in request.credits:
                if credit.call_id in self._calls:
                    self._calls[credit.call_id][0].grant(credit.num_responses)
            for call_id in request.cancelled:
                if call_id in self._calls:
                    self._calls[call_id][1].cancel()
        self.end()

    def begin_drain(self) -> None:
        """Say at once that the process is about to end."""
        if not self._is_draining:
            self._is_draining, self._has_said_so = True, False
            self._changed.set()

    def end(self) -> None:
        """Take no more calls."""
        self._is_ending = True
        self._changed.set()

    async def next_response(self) -> pb.ExchangeResponse | None:
        """All that is ready; waits until there is something. None when nothing can come any more."""
        while not (self._ready or self._pong) and self._has_said_so:
            if self._is_ending and not self._calls:
                return None
            self._changed.clear()
            await self._changed.wait()
            # What came in one message is answered in the same turn of the loop, if it is quick.
            await asyncio.sleep(0)
        parts = []
        size_bytes = 0
        while self._ready and size_bytes < MAX_BATCH_BYTES:
            part = self._ready.popleft()
            parts.append(part)
            size_bytes += len(part.response)
        pong, self._pong = self._pong, 0
        self._has_said_so = True
        return pb.ExchangeResponse(
            parts=parts, pong=pong, load_report=self._news_of_load(), is_draining=self._is_draining
        )

    def _news_of_load(self) -> bytes:
        """The load report, unless it is what was said last."""
        load = self._load.encoded()
        if load is self._load_said:
            return b""
        self._load_said = load
        return load

    async def close(self) -> None:
        """Cancel what runs, and wait for its end."""
        self._deadlines.close()
        tasks = [task for _, task in self._calls.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def put(self, part: pb.CallPart) -> None:
        self._ready.append(part)
        self._changed.set()

    def _open(self, opened: pb.OpenCall) -> None:
        handler = self._find(opened.method)
        if self._is_ending:
            self._refuse(opened, grpc.StatusCode.UNAVAILABLE, "the server is ending")
        elif handler is None or handler.request_streaming:
            self._refuse(opened, grpc.StatusCode.UNIMPLEMENTED, f"no method {opened.method}")
        elif len(self._calls) >= self._max_calls:
            self._refuse(opened, grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls at one time")
        elif opened.call_id in self._calls:
            self._refuse(opened, grpc.StatusCode.INVALID_ARGUMENT, "the call_id is in use")
        else:
            context = _CallContext(opened, handler.response_serializer, self.put)
            # In a context of its own: that of the Exchange holds its id and its span, not this request's.
            task = asyncio.get_running_loop().create_task(self._run(handler, opened, context), context=Context())
            self._calls[opened.call_id] = (context, task)
            if opened.HasField("timeout_s"):
                self._deadlines.add(opened.call_id, opened.timeout_s)

    def _refuse(self, opened: pb.OpenCall, code: grpc.StatusCode, details: str) -> None:
        self.put(pb.CallPart(call_id=opened.call_id, status=_status(code, details)))

    def _expire(self, call_id: int) -> None:
        context, task = self._calls[call_id]
        context.is_expired = True
        task.cancel()

    async def _run(self, handler: Handler, opened: pb.OpenCall, context: _CallContext) -> None:
        status = pb.CallStatus()
        try:
            deserialize = handler.request_deserializer
            request = opened.request if deserialize is None else deserialize(opened.request)
            if handler.response_streaming:
                await _behaviour(handler.unary_stream)(request, context)
            else:
                context.answer(await _behaviour(handler.unary_unary)(request, context))
                return
        except _Aborted as aborted:
            status = aborted.status
        except asyncio.CancelledError:
            if not context.is_expired:
                raise
            status = _status(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded")
        finally:
            del self._calls[opened.call_id]
            self._deadlines.remove(opened.call_id)
            self._changed.set()
        self.put(pb.CallPart(call_id=opened.call_id, status=status))


class _CallContext:
    """What the interceptor asks of a servicer's context, for one call of an Exchange. is_expired: its time is up."""

    def __init__(
        self,
        opened: pb.OpenCall,
        serialize: Callable[[Any], bytes] | None,
        put: Callable[[pb.CallPart], None],
    ) -> None:
        self.is_expired = False
        self._call_id = opened.call_id
        self._metadata = tuple([(header.name, header.value) for header in opened.headers])
        self._deadline = time.monotonic() + opened.timeout_s if opened.HasField("timeout_s") else None
        self._serialize = serialize
        self._put = put
        self._credit = INITIAL_CREDIT
        self._has_credit: asyncio.Event | None = None

    def grant(self, num_responses: int) -> None:
        self._credit += num_responses
        if self._has_credit is not None:
            self._has_credit.set()

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata

    def time_remaining(self) -> float | None:
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def set_trailing_metadata(self, trailing_metadata: Trailers) -> None:
        """Where the interceptor puts the load report, which the Exchange says by itself."""

    def set_code(self, code: grpc.StatusCode) -> None:
        """What generated base classes do before they raise NotImplementedError; the interceptor decides."""

    def set_details(self, details: str) -> None:
        """As `set_code`."""

    async def send_initial_metadata(self, metadata: Any) -> None:
        """An Exchange has no place for it: our services read nothing there."""

    async def write(self, message: Any) -> None:
        """Send a response of a stream; waits while the reader has not taken those before."""
        while not self._credit:
            self._has_credit = asyncio.Event()
            await self._has_credit.wait()
        self._credit -= 1
        self._put(pb.CallPart(call_id=self._call_id, response=self._serialized(message)))

    def answer(self, message: Any) -> None:
        """Send the one response, in pieces if it is large: one message must hold each of them."""
        content = self._serialized(message)
        while len(content) > MAX_BATCH_BYTES:
            self._put(pb.CallPart(call_id=self._call_id, response=content[:MAX_BATCH_BYTES]))
            content = content[MAX_BATCH_BYTES:]
        self._put(pb.CallPart(call_id=self._call_id, response=content, is_last=True))

    def _serialized(self, message: Any) -> bytes:
        content: bytes = message if self._serialize is None else self._serialize(message)
        return content

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Trailers = ()) -> NoReturn:
        raise _Aborted(_status(code, details, trailing_metadata))


def _behaviour(function: Any) -> Callable[[Any, _CallContext], Awaitable[Any]]:
    """What is inside a wrapped handler: always a coroutine function."""
    return cast("Callable[[Any, _CallContext], Awaitable[Any]]", function)


class _Aborted(Exception):
    """The handler ended its call with a status."""

    def __init__(self, status: pb.CallStatus) -> None:
        super().__init__(status.details)
        self.status = status


def _status(code: grpc.StatusCode, details: str, trailers: Trailers = ()) -> pb.CallStatus:
    number: int = code.value[0]
    # Binary ones are load reports.
    headers = [pb.CallHeader(name=name, value=value) for name, value in trailers if isinstance(value, str)]
    return pb.CallStatus(code=number, details=details, trailers=headers)

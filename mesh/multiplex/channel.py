"""The caller's end: a gRPC channel whose calls with one request share one Exchange, unless the request is large.

A call fails as it would on its own: with the status that its handler gave, with DEADLINE_EXCEEDED in time, and with
the status of the Exchange when the peer is gone. Knows no method and no message.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable
from contextvars import Context
from itertools import count
from typing import Any

import grpc
import grpc.aio

from mesh.channel import open_channel
from mesh.interceptors.client import headers, shorter
from mesh.multiplex import INITIAL_CREDIT, MAX_SHARED_REQUEST_BYTES
from mesh.multiplex.deadlines import Deadlines
from mesh.multiplex.linger import Linger
from mesh.v1 import multiplex_pb2 as pb
from mesh.v1.multiplex_pb2_grpc import MultiplexServiceStub

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_GRANT = INITIAL_CREDIT // 2
# What gRPC calls it when the connection breaks while it reads or writes a stream.
_BROKEN = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)

Codec = Callable[[Any], Any]  # Any: a message of the method's own, or its bytes


def open_multiplexed(address: str) -> grpc.aio.Channel:
    """As `mesh.channel.open_channel`, with multiplexed streams."""
    return MultiplexedChannel(open_channel(address))


class MultiplexedChannel(grpc.aio.Channel):
    """Passes on to `channel` a call with a large request or a stream of them, and all calls to a peer without Exchange.

    A unary-stream call is an async generator: closing it cancels the call. A unary-unary call is a coroutine. Owns and
    closes `channel`.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self._exchange: _Exchange | None = None
        self._is_plain = False

    def unary_stream(
        self,
        method: str,
        request_serializer: Codec | None = None,
        response_deserializer: Codec | None = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """What is called with a request and `timeout`, and gives the responses."""
        serialize, deserialize = request_serializer or _as_it_is, response_deserializer or _as_it_is

        async def plain(request: Any, timeout: float | None) -> AsyncGenerator[Any, None]:
            call = self._channel.unary_stream(method, request_serializer, response_deserializer)(
                request, timeout=timeout
            )
            try:
                async for response in call:
                    yield response
            finally:
                call.cancel()

        async def call(request: Any, timeout: float | None = None) -> AsyncGenerator[Any, None]:
            if not self._is_plain:
                exchange = self._live_exchange()
                stream = exchange.open(method, serialize(request), timeout)
                try:
                    while (response := await stream.get()) is not None:
                        yield deserialize(response)
                    return
                except grpc.aio.AioRpcError:
                    if not exchange.was_refused:
                        raise
                    self._is_plain |= exchange.is_unimplemented
                finally:
                    exchange.close_stream(stream)
            responses = plain(request, timeout)
            try:
                async for response in responses:
                    yield response
            finally:
                await responses.aclose()

        return call

    def unary_unary(
        self,
        method: str,
        request_serializer: Codec | None = None,
        response_deserializer: Codec | None = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """What is called with a request and `timeout`, and gives the response."""
        serialize, deserialize = request_serializer or _as_it_is, response_deserializer or _as_it_is

        async def call(request: Any, timeout: float | None = None) -> Any:
            content: bytes = serialize(request)
            if not self._is_plain and len(content) <= MAX_SHARED_REQUEST_BYTES:
                exchange = self._live_exchange()
                try:
                    return deserialize(await exchange.ask(method, content, timeout))
                except grpc.aio.AioRpcError:
                    if not exchange.was_refused:
                        raise
                    self._is_plain |= exchange.is_unimplemented
            alone: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(method)
            return deserialize(await alone(content, timeout=timeout))

        return call

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        return self._channel.stream_unary(*args, **kwargs)

    def stream_stream(self, *args: Any, **kwargs: Any) -> Any:
        return self._channel.stream_stream(*args, **kwargs)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._channel.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        if self._exchange is not None:
            await self._exchange.close()
        await self._channel.close(grace)

    async def __aenter__(self) -> MultiplexedChannel:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _live_exchange(self) -> _Exchange:
        if self._exchange is None or self._exchange.is_over:
            # In a context of its own: it outlives the request that happens to be the first, and has no deadline.
            self._exchange = Context().run(_Exchange, self._channel)
        return self._exchange


class _Reply:
    """The one response to a call, in pieces if it is large; one reader."""

    def __init__(self) -> None:
        self.whole: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._pieces: list[bytes] = []

    def put(self, piece: bytes) -> None:
        self._pieces.append(piece)

    def end(self, error: grpc.aio.AioRpcError | None = None) -> None:
        """All pieces are there, or `error` came instead. A second end changes nothing."""
        if self.whole.done():
            return
        if error is not None:
            self.whole.set_exception(error)
        else:
            self.whole.set_result(self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces))


class _Stream:
    """The responses to one call, as they come; one reader."""

    def __init__(self, call_id: int, grant: Callable[[int], None]) -> None:
        self.call_id = call_id
        self.is_over = False
        self._grant = grant
        self._responses: deque[bytes] = deque()
        self._num_read = 0
        self._error: grpc.aio.AioRpcError | None = None
        self._changed = asyncio.Event()

    def put(self, response: bytes) -> None:
        self._responses.append(response)
        self._changed.set()

    def end(self, error: grpc.aio.AioRpcError | None = None) -> None:
        """Nothing more comes; `error` reaches the reader after what has come. A second end changes nothing."""
        if not self.is_over:
            self.is_over, self._error = True, error
            self._changed.set()

    async def get(self) -> bytes | None:
        """The next response; None after the last. Raises the error that ended the call."""
        while not self._responses:
            if self._error is not None:
                raise self._error
            if self.is_over:
                return None
            self._changed.clear()
            await self._changed.wait()
        self._num_read += 1
        if self._num_read % _GRANT == 0:
            self._grant(self.call_id)
        return self._responses.popleft()


class _Exchange:
    """One Exchange with a peer.

    is_over: it takes no more calls. is_unimplemented: the peer does not serve it. was_refused: that, or it broke before
    the peer said a word; so it looks as well to who writes while the refusal is on its way.
    """

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.is_over = False
        self.is_unimplemented = False
        self.was_refused = False
        self._call_ids = count(1)
        self._calls: dict[int, _Stream | _Reply] = {}
        self._deadlines = Deadlines(self._expire)
        self._request = pb.ExchangeRequest()
        self._has_request = asyncio.Event()
        self._linger = Linger()
        self._responses = MultiplexServiceStub(channel).Exchange(self._requests())
        self._reading = asyncio.create_task(self._read(), name="multiplex-read")

    def open(self, method: str, request: bytes, timeout_s: float | None) -> _Stream:
        """Start a call with a stream of responses."""
        stream = _Stream(next(self._call_ids), self._grant)
        self._start(stream.call_id, stream, method, request, timeout_s)
        return stream

    async def ask(self, method: str, request: bytes, timeout_s: float | None) -> bytes:
        """The response of a call with one."""
        reply, call_id = _Reply(), next(self._call_ids)
        self._start(call_id, reply, method, request, timeout_s)
        try:
            return await reply.whole
        finally:
            self._leave(call_id)

    def close_stream(self, stream: _Stream) -> None:
        """Leave a call; one that has not ended is cancelled at the peer."""
        stream.end()
        self._leave(stream.call_id)

    def _start(
        self, call_id: int, call: _Stream | _Reply, method: str, request: bytes, timeout_s: float | None
    ) -> None:
        """With the current request's context."""
        timeout_s = shorter(timeout_s)
        self._calls[call_id] = call
        opened = self._request.opened.add(call_id=call_id, method=method, request=request, timeout_s=timeout_s)
        for name, value in headers().items():
            opened.headers.add(name=name, value=value)
        self._has_request.set()
        if timeout_s is not None:
            self._deadlines.add(call_id, timeout_s)

    def _leave(self, call_id: int) -> None:
        self._deadlines.remove(call_id)
        if self._calls.pop(call_id, None) is not None and not self.is_over:
            self._request.cancelled.append(call_id)
            self._has_request.set()

    def _expire(self, call_id: int) -> None:
        """End with DEADLINE_EXCEEDED a call whose time is up, whatever the peer does."""
        call = self._calls.get(call_id)
        if call is not None:
            call.end(_error(grpc.StatusCode.DEADLINE_EXCEEDED, "Deadline Exceeded"))

    async def close(self) -> None:
        """End the Exchange and all of its calls."""
        self._responses.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)

    def _grant(self, call_id: int) -> None:
        self._request.credits.add(call_id=call_id, num_responses=_GRANT)
        self._has_request.set()

    async def _requests(self) -> AsyncGenerator[pb.ExchangeRequest, None]:
        """What has gathered since the last one, whenever there is something."""
        while True:
            await self._has_request.wait()
            await self._linger.wait()
            self._has_request.clear()
            request, self._request = self._request, pb.ExchangeRequest()
            yield request

    async def _read(self) -> None:
        error = _error(grpc.StatusCode.UNAVAILABLE, "the peer ended its exchange of calls")
        is_first = True
        try:
            async for response in self._responses:
                is_first = False
                for part in response.parts:
                    self._take(part)
        except grpc.aio.AioRpcError as failure:
            is_broken = failure.code() in _BROKEN
            self.is_unimplemented = failure.code() is grpc.StatusCode.UNIMPLEMENTED
            self.was_refused = self.is_unimplemented or (is_broken and is_first)
            error = _of_a_peer_that_is_gone(failure) if is_broken else failure
        except asyncio.CancelledError:
            error = _error(grpc.StatusCode.CANCELLED, "the channel was closed")
        finally:
            self.is_over = True
            self._deadlines.close()
            for call in self._calls.values():
                call.end(error)

    def _take(self, part: pb.CallPart) -> None:
        call = self._calls.get(part.call_id)
        if call is None:
            return  # its reader has left
        if part.HasField("status"):
            status = part.status
            error = _error(_CODES[status.code], status.details, status.trailers) if status.code else None
        else:
            call.put(part.response)
            if not part.is_last:
                return
            error = None
        del self._calls[part.call_id]
        call.end(error)


def _of_a_peer_that_is_gone(failure: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
    """No handler said this: none of the calls was answered, and another peer may be asked."""
    return _error(grpc.StatusCode.UNAVAILABLE, failure.details() or "the exchange of calls broke")


def _error(code: grpc.StatusCode, details: str, trailers: Any = ()) -> grpc.aio.AioRpcError:
    trailing = grpc.aio.Metadata(*((trailer.name, trailer.value) for trailer in trailers))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details=details)


def _as_it_is(message: bytes) -> bytes:
    return message

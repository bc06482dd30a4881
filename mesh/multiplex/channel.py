"""The caller's end: a gRPC channel whose calls with one request share one Exchange, unless the request is large.

A call fails as it would on its own, and when the peer gives no sign of life. Knows no method and no message.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from contextvars import Context
from typing import Any, TypeAlias

import grpc
import grpc.aio

from mesh.channel import open_channel
from mesh.multiplex import MAX_SHARED_REQUEST_BYTES
from mesh.multiplex.exchange import Exchange
from mesh.multiplex.liveness import LIVENESS_TIMEOUT_S, Peer

# How the sentence of a call begins whose answer cannot be parsed.
UNREADABLE = "Error parsing the answer"

Codec = Callable[[Any], Any]  # Any: a message of the method's own, or its bytes
StreamingCall: TypeAlias = "grpc.aio.UnaryStreamCall[Any, Any] | grpc.aio.StreamStreamCall[Any, Any]"


def open_multiplexed(address: str, *, liveness_timeout_s: float = LIVENESS_TIMEOUT_S) -> MultiplexedChannel:
    """As `mesh.channel.open_channel`, with multiplexed streams."""
    return MultiplexedChannel(address, liveness_timeout_s=liveness_timeout_s)


class MultiplexedChannel(grpc.aio.Channel):
    """Calls with a large request or a stream of them are calls of their own, and so are all to a peer without Exchange.

    A call with a stream of responses is an async generator: closing it cancels the call. A unary-unary call is a
    coroutine. peer: what is known of the process at the other end; its callbacks are the owner's to set.
    """

    def __init__(self, address: str, *, liveness_timeout_s: float) -> None:
        self.peer = Peer()
        self._address = address
        self._channel = open_channel(address)
        self._liveness_timeout_s = liveness_timeout_s
        self._exchange: Exchange | None = None
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

        alone: grpc.aio.UnaryStreamMultiCallable[Any, bytes] = self._channel.unary_stream(method, request_serializer)

        async def call(request: Any, timeout: float | None = None) -> AsyncGenerator[Any, None]:
            if not self._is_plain:
                exchange = self._live_exchange()
                stream = exchange.open(method, serialize(request), timeout)
                try:
                    while (response := await stream.get()) is not None:
                        yield _decoded(deserialize, response)
                    return
                except grpc.aio.AioRpcError:
                    if not exchange.was_refused:
                        raise
                    self._is_plain |= exchange.is_unimplemented
                finally:
                    exchange.close_stream(stream)
            async with aclosing(self._responses_to(alone(request, timeout=timeout))) as responses:
                async for response in responses:
                    yield _decoded(deserialize, response)

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
                    return _decoded(deserialize, await exchange.ask(method, content, timeout))
                except grpc.aio.AioRpcError:
                    if not exchange.was_refused:
                        raise
                    self._is_plain |= exchange.is_unimplemented
            alone: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(method)
            answer = alone(content, timeout=timeout)
            with self._guarding(answer):
                # None from a peer that says OK without an answer.
                given: bytes | None = await answer
            return _decoded(deserialize, given)

        return call

    def stream_unary(self, *args: Any, **kwargs: Any) -> Any:
        return self._channel.stream_unary(*args, **kwargs)

    def stream_stream(
        self,
        method: str,
        request_serializer: Codec | None = None,
        response_deserializer: Codec | None = None,
        _registered_method: bool | None = False,
    ) -> Any:
        """What is called with an iterator of requests and `timeout`, and gives the responses."""
        alone = self._channel.stream_stream(method, request_serializer, response_deserializer)

        def call(requests: Any, timeout: float | None = None) -> AsyncGenerator[Any, None]:
            return self._responses_to(alone(requests, timeout=timeout))

        return call

    async def _responses_to(self, call: StreamingCall) -> AsyncGenerator[Any, None]:
        """The responses to a call of its own; closing the generator cancels it."""
        try:
            with self._guarding(call):
                async for response in call:
                    yield response
        finally:
            call.cancel()

    @contextmanager
    def _guarding(self, call: grpc.aio.Call) -> Iterator[None]:
        """For the block that waits for a call of its own: a peer that falls silent ends it with UNAVAILABLE."""
        if self._is_plain:
            yield
            return
        exchange = self._live_exchange()
        try:
            with exchange.guarding(call):
                yield
        finally:
            self._is_plain |= exchange.is_unimplemented

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

    def _live_exchange(self) -> Exchange:
        if self._exchange is None or self._exchange.is_over:
            self._open_exchange()
        assert self._exchange is not None
        return self._exchange

    def _open_exchange(self) -> None:
        """After one that a silent peer broke, at once: its first ping tells when the peer is back."""
        # In a context of its own: it outlives the request that happens to be the first, and has no deadline.
        self._exchange = Context().run(self._new_exchange)

    def _new_exchange(self) -> Exchange:
        return Exchange(
            self._channel,
            self.peer,
            self._liveness_timeout_s,
            connects=self._connects,
            on_silence=self._open_exchange,
        )

    async def _connects(self) -> None:
        """Ends when a new connection to the peer stands."""
        async with open_channel(self._address) as channel:
            await channel.channel_ready()


def _decoded(deserialize: Codec, content: bytes | None) -> Any:
    """The message in `content`. Raises INTERNAL, as a call with a broken answer does: with no server's word."""
    if content is None:
        reason = "the peer said OK without one"
    else:
        try:
            return deserialize(content)
        except Exception as error:  # protobuf's error is of another class in each of its implementations
            reason = str(error) or type(error).__name__
    nothing = grpc.aio.Metadata()
    raise grpc.aio.AioRpcError(grpc.StatusCode.INTERNAL, nothing, nothing, details=f"{UNREADABLE}: {reason}")


def _as_it_is(message: bytes) -> bytes:
    return message

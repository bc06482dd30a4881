"""The caller's end of one Exchange: opens calls in it, hands out what they are answered, and notices when it breaks.

A call ends with the status that its handler gave, with DEADLINE_EXCEEDED in time, with the status of the Exchange when
that ends, or with UNAVAILABLE when the peer gives no sign of life (`liveness`). Knows no method and no message.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context
from functools import partial
from itertools import count
from typing import Any

import grpc
import grpc.aio

from mesh.interceptors.client import headers, shorter
from mesh.load_meter import FRESH_S
from mesh.load_report import decode_load_report
from mesh.multiplex import INITIAL_CREDIT
from mesh.multiplex.deadlines import Deadlines
from mesh.multiplex.linger import Linger
from mesh.multiplex.liveness import Liveness, Peer
from mesh.v1 import multiplex_pb2 as pb
from mesh.v1.multiplex_pb2_grpc import MultiplexServiceStub

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_GRANT = INITIAL_CREDIT // 2
# What gRPC calls it when the connection breaks while it reads or writes a stream.
_BROKEN = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN)


class Reply:
    """The one response to a call, in pieces if it is large; one reader."""

    def __init__(self) -> None:
        self.whole: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._pieces: list[bytes] = []

    def put(self, piece: bytes) -> bool:
        self._pieces.append(piece)
        return True

    def end(self, error: grpc.aio.AioRpcError | None = None) -> None:
        """All pieces are there, or `error` came instead. A second end changes nothing."""
        if self.whole.done():
            return
        if error is not None:
            self.whole.set_exception(error)
        else:
            self.whole.set_result(self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces))


class Stream:
    """The responses to one call, as they come; one reader."""

    def __init__(self, call_id: int, grant: Callable[[int], None]) -> None:
        self.call_id = call_id
        self.is_over = False
        self._grant = grant
        self._responses: deque[bytes] = deque()
        self._num_read = 0
        self._error: grpc.aio.AioRpcError | None = None
        self._changed = asyncio.Event()

    def put(self, response: bytes) -> bool:
        """False when there is no room: the peer sends more than it was granted."""
        if len(self._responses) >= INITIAL_CREDIT:
            return False
        self._responses.append(response)
        self._changed.set()
        return True

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


class Exchange:
    """One Exchange with a peer.

    is_over: it takes no more calls. is_unimplemented: the peer does not serve it. was_refused: that, or it broke before
    the peer said a word; so it looks as well to who writes while the refusal is on its way. connects: ends when a new
    connection to the peer stands. on_silence: called after the Exchange broke because the peer gave no sign of life.
    """

    def __init__(
        self,
        channel: grpc.aio.Channel,
        peer: Peer,
        liveness_timeout_s: float,
        *,
        connects: Callable[[], Coroutine[None, None, None]],
        on_silence: Callable[[], None],
    ) -> None:
        self.is_over = False
        self.is_unimplemented = False
        self.was_refused = False
        self._call_ids = count(1)
        self._calls: dict[int, Stream | Reply] = {}
        self._guarded: set[grpc.aio.Call] = set()
        self._asks_at = 0.0
        self._deadlines = Deadlines(self._expire)
        self._peer = peer
        self._connects = connects
        self._on_silence = on_silence
        self._knocking: asyncio.Task[None] | None = None
        self._silence: grpc.aio.AioRpcError | None = None
        self._liveness = Liveness(
            peer,
            liveness_timeout_s,
            is_awaited=lambda: bool(self._calls or self._guarded),
            ping=self._ping,
            knock=self._knock,
            on_death=self._break,
            # Not in the context of whichever request happens to set the timer.
            call_later=partial(asyncio.get_running_loop().call_later, context=Context()),
        )
        # The first message asks for a sign of life at once: so it shows whether the peer knows pings.
        self._request = pb.ExchangeRequest(ping=1)
        self._num_pings = 1
        self._has_request = asyncio.Event()
        self._has_request.set()
        self._linger = Linger()
        self._responses = MultiplexServiceStub(channel).Exchange(self._requests())
        self._reading = asyncio.create_task(self._read(), name="multiplex-read")

    def open(self, method: str, request: bytes, timeout_s: float | None) -> Stream:
        """Start a call with a stream of responses."""
        stream = Stream(next(self._call_ids), self._grant)
        self._start(stream.call_id, stream, method, request, timeout_s)
        return stream

    async def ask(self, method: str, request: bytes, timeout_s: float | None) -> bytes:
        """The response of a call with one."""
        reply, call_id = Reply(), next(self._call_ids)
        self._start(call_id, reply, method, request, timeout_s)
        try:
            return await reply.whole
        finally:
            self._leave(call_id)

    def close_stream(self, stream: Stream) -> None:
        """Leave a call; one that has not ended is cancelled at the peer."""
        stream.end()
        self._leave(stream.call_id)

    def _start(self, call_id: int, call: Stream | Reply, method: str, request: bytes, timeout_s: float | None) -> None:
        """With the current request's context."""
        timeout_s = shorter(timeout_s)
        self._calls[call_id] = call
        opened = self._request.opened.add(call_id=call_id, method=method, request=request, timeout_s=timeout_s)
        for name, value in headers().items():
            opened.headers.add(name=name, value=value)
        self._has_request.set()
        self._liveness.awaited()
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

    @contextmanager
    def guarding(self, call: grpc.aio.Call) -> Iterator[None]:
        """For the block that waits for `call`, a call of its own to the same peer.

        Raises UNAVAILABLE when the peer gives no sign of life. Afterwards the peer is asked how full it is: it says so
        in the call's trailing metadata as well, but gRPC's core keeps that for its own balancers.
        """
        self._guarded.add(call)
        self._liveness.awaited()
        try:
            yield
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if self._silence is None or (task is not None and task.cancelling()):
                raise
            raise _copy(self._silence) from None
        finally:
            self._guarded.discard(call)
            now = asyncio.get_running_loop().time()
            if now >= self._asks_at:
                self._asks_at = now + FRESH_S
                self._ping()

    async def close(self) -> None:
        """End the Exchange and all of its calls."""
        self._responses.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
        if self._knocking is not None:
            await asyncio.gather(self._knocking, return_exceptions=True)

    def _ping(self) -> None:
        self._num_pings += 1
        self._request.ping = self._num_pings
        self._has_request.set()

    def _knock(self) -> None:
        if self._knocking is None or self._knocking.done():
            self._knocking = asyncio.create_task(self._connects(), name="multiplex-knock", context=Context())
            self._knocking.add_done_callback(self._on_knocked)

    def _on_knocked(self, knocking: asyncio.Task[None]) -> None:
        if not knocking.cancelled() and knocking.exception() is None:
            self._liveness.runs()

    def _break(self, silence_s: float) -> None:
        """The peer is silent: end all calls, so that they can go elsewhere."""
        self._silence = _error(grpc.StatusCode.UNAVAILABLE, f"the peer gave no sign of life for {silence_s:g} s")
        self._end(self._silence)
        for call in self._guarded:
            call.cancel()
        self._responses.cancel()
        self._on_silence()

    def _end(self, error: grpc.aio.AioRpcError) -> None:
        if not self.is_over:
            self._peer.drain(False)  # whoever answers the next exchange may be a new process
        self.is_over = True
        self._deadlines.close()
        self._liveness.close()
        if self._knocking is not None:
            self._knocking.cancel()
        for call in self._calls.values():
            call.end(_copy(error))
        self._has_request.set()

    def _grant(self, call_id: int) -> None:
        self._request.credits.add(call_id=call_id, num_responses=_GRANT)
        self._has_request.set()

    async def _requests(self) -> AsyncGenerator[pb.ExchangeRequest, None]:
        """What has gathered since the last one, whenever there is something, until the Exchange is over."""
        while True:
            await self._has_request.wait()
            if self.is_over:
                return
            await self._linger.wait()
            self._has_request.clear()
            request, self._request = self._request, pb.ExchangeRequest()
            yield request

    async def _read(self) -> None:
        error = _error(grpc.StatusCode.UNAVAILABLE, "the peer ended its exchange of calls")
        is_first = True
        try:
            async for response in self._responses:
                if response is None:  # gRPC's word for a message that cannot be parsed
                    error = _error(grpc.StatusCode.UNAVAILABLE, "the peer's exchange of calls cannot be read")
                    self._responses.cancel()
                    break
                is_first = False
                self._liveness.heard()
                self._peer.drain(response.is_draining)
                for part in response.parts:
                    self._take(part)
                if response.pong:
                    self._peer.answers_pings = True
                if response.load_report:
                    self._peer.report(decode_load_report(response.load_report))
        except grpc.aio.AioRpcError as failure:
            is_broken = failure.code() in _BROKEN
            self.is_unimplemented = failure.code() is grpc.StatusCode.UNIMPLEMENTED
            self.was_refused = self.is_unimplemented or (is_broken and is_first)
            error = _of_a_peer_that_is_gone(failure) if is_broken else failure
        except asyncio.CancelledError:
            error = _error(grpc.StatusCode.CANCELLED, "the channel was closed")
        finally:
            self._end(error)
            if self._silence is None:
                # What ended it is a word of the peer, or of the connection, which the callers are told.
                self._peer.suspect(False)

    def _take(self, part: pb.CallPart) -> None:
        call = self._calls.get(part.call_id)
        if call is None:
            return  # its reader has left
        if part.HasField("status"):
            status = part.status
            error = (
                _error(_CODES.get(status.code, grpc.StatusCode.UNKNOWN), status.details, status.trailers)
                if status.code
                else None
            )
        elif not call.put(part.response):
            self._leave(part.call_id)
            call.end(_error(grpc.StatusCode.INTERNAL, "the peer sent more responses than it was granted"))
            return
        elif not part.is_last:
            return
        else:
            error = None
        del self._calls[part.call_id]
        call.end(error)


def _copy(error: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
    """One for each call: where an exception is raised it gets a traceback, which keeps all frames of its call alive."""
    return grpc.aio.AioRpcError(
        error.code(), error.initial_metadata(), error.trailing_metadata(), details=error.details()
    )


def _of_a_peer_that_is_gone(failure: grpc.aio.AioRpcError) -> grpc.aio.AioRpcError:
    """No handler said this: none of the calls was answered, and another peer may be asked."""
    return _error(grpc.StatusCode.UNAVAILABLE, failure.details() or "the exchange of calls broke")


def _error(code: grpc.StatusCode, details: str, trailers: Any = ()) -> grpc.aio.AioRpcError:
    trailing = grpc.aio.Metadata(*((trailer.name, trailer.value) for trailer in trailers))
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), trailing, details=details)

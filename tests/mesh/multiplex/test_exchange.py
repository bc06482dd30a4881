"""An exchange whose peer falls silent: what it carries ends in time, and the peer is used again when it is back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from mesh.multiplex import INITIAL_CREDIT, MAX_SHARED_REQUEST_BYTES
from mesh.multiplex.channel import MultiplexedChannel, open_multiplexed
from mesh.oip.open_inference_pb2 import ModelInferRequest
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub, add_GRPCInferenceServiceServicer_to_server
from mesh.testing import eventually, serve_on_free_port
from mesh.v1 import language_model_pb2 as lm
from mesh.v1 import multiplex_pb2 as pb
from mesh.v1.language_model_pb2_grpc import (
    LanguageModelServicer,
    LanguageModelStub,
    add_LanguageModelServicer_to_server,
)
from mesh.v1.multiplex_pb2_grpc import MultiplexServiceServicer, add_MultiplexServiceServicer_to_server
from tests.mesh.pool_rig import Answering
from tests.mesh.relay import Relay, relay_to

TIMEOUT_S = 0.6


class Holding(LanguageModelServicer):
    """Answers at once, but for texts that begin with "wait": those when `go_on` is set."""

    def __init__(self) -> None:
        self.num_running = 0
        self.go_on = asyncio.Event()

    async def _hold(self, text: str) -> None:
        self.num_running += 1
        try:
            if text.startswith("wait"):
                await self.go_on.wait()
        finally:
            self.num_running -= 1

    async def Tokenize(self, request: lm.TokenizeRequest, _: Any) -> lm.TokenizeResponse:
        await self._hold(request.text)
        return lm.TokenizeResponse(token_ids=[len(request.text)])

    async def Generate(self, request: lm.GenerateRequest, _: Any) -> AsyncIterator[lm.GenerateResponse]:
        yield lm.GenerateResponse(text="first")
        await self._hold(request.text)
        yield lm.GenerateResponse(text="last")


@pytest.fixture
def servicer() -> Holding:
    return Holding()


@pytest.fixture
async def relay(servicer: Holding) -> AsyncIterator[Relay]:
    async with (
        serve_on_free_port((add_LanguageModelServicer_to_server, servicer)) as address,
        relay_to(address) as passing,
    ):
        yield passing


@pytest.fixture
async def channel(relay: Relay) -> AsyncIterator[MultiplexedChannel]:
    channel = open_multiplexed(relay.address, liveness_timeout_s=TIMEOUT_S)
    yield channel
    await channel.close()


async def length(channel: grpc.aio.Channel, text: str, timeout: float = 20) -> int:
    return (await LanguageModelStub(channel).Tokenize(lm.TokenizeRequest(text=text), timeout=timeout)).token_ids[0]


async def texts(channel: grpc.aio.Channel, text: str) -> list[str]:
    return [part.text async for part in LanguageModelStub(channel).Generate(lm.GenerateRequest(text=text), timeout=20)]


def is_silence(error: object) -> bool:
    return (
        isinstance(error, grpc.aio.AioRpcError)
        and error.code() is grpc.StatusCode.UNAVAILABLE
        and error.details() == f"the peer gave no sign of life for {TIMEOUT_S:g} s"
    )


async def test_calls_of_all_kinds_end_when_the_peer_freezes_and_it_is_used_again_when_it_is_back(
    channel: MultiplexedChannel, relay: Relay, servicer: Holding
) -> None:
    large = "wait" + "x" * MAX_SHARED_REQUEST_BYTES
    calls = [
        asyncio.create_task(call) for call in (length(channel, "wait"), texts(channel, "wait"), length(channel, large))
    ]
    await eventually(lambda: servicer.num_running == 3)
    relay.freeze()

    ends = await asyncio.gather(*calls, return_exceptions=True)

    assert all(is_silence(end) for end in ends)
    assert len({id(end) for end in ends}) == len(ends)  # one of its own for each, which gets a traceback
    assert channel.peer.is_suspect
    relay.thaw()
    await eventually(lambda: not channel.peer.is_suspect)
    await eventually(lambda: servicer.num_running == 0)  # the peer is told that its callers have left
    assert await length(channel, "four") == 4
    assert relay.num_connections == 2  # the one that froze, which is used again, and the one that knocked


async def test_a_stream_of_requests_ends_when_the_peer_freezes() -> None:
    servicer = Answering()
    servicer.held = asyncio.Event()
    registration = (add_GRPCInferenceServiceServicer_to_server, servicer)
    async with serve_on_free_port(registration) as address, relay_to(address) as relay:
        async with open_multiplexed(relay.address, liveness_timeout_s=TIMEOUT_S) as channel:
            responses = aiter(GRPCInferenceServiceStub(channel).ModelStreamInfer(iter([ModelInferRequest(id="1")])))
            assert (await anext(responses)).infer_response.id == "0"
            await eventually(lambda: channel.peer.answers_pings)
            relay.freeze()

            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await anext(responses)

            assert is_silence(raised.value)
            relay.thaw()
            await asyncio.wait_for(servicer.cancelled.wait(), 20)


async def test_a_peer_that_only_takes_its_time_is_not_dead(channel: MultiplexedChannel, servicer: Holding) -> None:
    answers = asyncio.gather(length(channel, "wait"), texts(channel, "wait"))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await length(channel, "wait for longer", timeout=3 * TIMEOUT_S)

    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert not channel.peer.is_suspect
    servicer.go_on.set()
    assert await answers == [4, ["first", "last"]]


async def test_calls_with_less_time_than_the_timeout_find_a_frozen_peer_out_too(
    channel: MultiplexedChannel, relay: Relay
) -> None:
    assert await length(channel, "four") == 4
    relay.freeze()
    codes = []
    async with asyncio.timeout(20):
        while grpc.StatusCode.UNAVAILABLE not in codes:
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await length(channel, "four", timeout=TIMEOUT_S / 4)
            codes.append(raised.value.code())

    assert set(codes) == {grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE}


async def test_a_caller_that_gives_up_on_a_frozen_peer_is_cancelled_as_ever(
    channel: MultiplexedChannel, relay: Relay, servicer: Holding
) -> None:
    call = asyncio.create_task(length(channel, "wait" + "x" * MAX_SHARED_REQUEST_BYTES))
    await eventually(lambda: servicer.num_running == 1)
    relay.freeze()
    call.cancel()

    with pytest.raises(asyncio.CancelledError):
        await call


class Flooding(MultiplexServiceServicer):
    """Sends each call more responses than it was granted, and does not end it. Keeps which calls were cancelled."""

    def __init__(self) -> None:
        self.cancelled: list[int] = []

    async def Exchange(
        self, request_iterator: AsyncIterator[pb.ExchangeRequest], context: object
    ) -> AsyncIterator[pb.ExchangeResponse]:
        async for request in request_iterator:
            self.cancelled += request.cancelled
            for opened in request.opened:
                parts = [pb.CallPart(call_id=opened.call_id, response=b"")] * (INITIAL_CREDIT + 1)
                yield pb.ExchangeResponse(parts=parts)


async def test_a_peer_that_sends_more_than_it_was_granted_loses_that_call() -> None:
    servicer = Flooding()
    server = grpc.aio.server()
    add_MultiplexServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with open_multiplexed(f"127.0.0.1:{port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await texts(channel, "a")
        await eventually(lambda: servicer.cancelled == [1])

    assert raised.value.code() is grpc.StatusCode.INTERNAL
    await server.stop(None)


class WithoutPings(MultiplexServiceServicer):
    """Serves an Exchange as it was before pings: answers what it knows, and is silent in between."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()

    async def Exchange(
        self, request_iterator: AsyncIterator[pb.ExchangeRequest], context: object
    ) -> AsyncIterator[pb.ExchangeResponse]:
        async for request in request_iterator:
            for opened in request.opened:
                await self.go_on.wait()
                answer = lm.TokenizeResponse(token_ids=[7]).SerializeToString()
                yield pb.ExchangeResponse(parts=[pb.CallPart(call_id=opened.call_id, response=answer, is_last=True)])


async def test_a_peer_that_knows_no_pings_is_waited_for() -> None:
    servicer = WithoutPings()
    server = grpc.aio.server()
    add_MultiplexServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with open_multiplexed(f"127.0.0.1:{port}", liveness_timeout_s=TIMEOUT_S) as channel:
        answer = asyncio.create_task(length(channel, "a"))
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await length(channel, "b", timeout=3 * TIMEOUT_S)
        servicer.go_on.set()

        assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        assert await answer == 7
    await server.stop(None)


async def test_a_port_that_takes_connections_and_says_nothing_is_found_out() -> None:
    hung: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(lambda _, writer: hung.append(writer), "127.0.0.1", 0)
    async with open_multiplexed(f"127.0.0.1:{server.sockets[0].getsockname()[1]}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await length(channel, "a", timeout=60)

    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    for writer in hung:
        writer.close()
    server.close()


class Draining(MultiplexServiceServicer):
    """Answers every message; says what `is_draining` is, and ends the exchange after a message when `ends`."""

    def __init__(self) -> None:
        self.is_draining = True
        self.ends = False

    async def Exchange(
        self, request_iterator: AsyncIterator[pb.ExchangeRequest], context: object
    ) -> AsyncIterator[pb.ExchangeResponse]:
        async for request in request_iterator:
            answer = lm.TokenizeResponse(token_ids=[7]).SerializeToString()
            parts = [pb.CallPart(call_id=opened.call_id, response=answer, is_last=True) for opened in request.opened]
            yield pb.ExchangeResponse(parts=parts, is_draining=self.is_draining)
            if self.ends:
                return


async def test_a_drain_lasts_until_the_peer_takes_it_back_or_the_exchange_ends() -> None:
    servicer = Draining()
    server = grpc.aio.server()
    add_MultiplexServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with open_multiplexed(f"127.0.0.1:{port}") as channel:
        changes: list[bool] = []
        channel.peer.on_drain = changes.append
        for is_draining in (True, True, False, True):
            servicer.is_draining = is_draining
            assert await length(channel, "a") == 7
            assert channel.peer.is_draining == is_draining
        servicer.ends = True
        assert await length(channel, "a") == 7
        await eventually(lambda: not channel.peer.is_draining)
        servicer.is_draining = servicer.ends = False

        assert await length(channel, "a") == 7
        assert changes == [True, False, True, False]
    await server.stop(None)

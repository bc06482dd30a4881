"""The answering end of an Exchange: what it sends together, what it refuses, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, cast

import grpc
import grpc.aio
import pytest
from prometheus_client import CollectorRegistry

from mesh.channel import open_channel
from mesh.interceptors import handler_table
from mesh.load_meter import Holdings, LoadMeter
from mesh.load_report import decode_load_report
from mesh.metrics import RpcMetrics
from mesh.multiplex.servicer import MAX_BATCH_BYTES, MultiplexServicer
from mesh.testing import eventually
from mesh.v1 import language_model_pb2 as lm
from mesh.v1 import multiplex_pb2 as pb
from mesh.v1.language_model_pb2_grpc import LanguageModelServicer, add_LanguageModelServicer_to_server
from mesh.v1.multiplex_pb2_grpc import MultiplexServiceStub, add_MultiplexServiceServicer_to_server

GENERATE = "/mesh.v1.LanguageModel/Generate"
TOKENIZE = "/mesh.v1.LanguageModel/Tokenize"
TALK = "/t.T/Talk"


class Stepping(LanguageModelServicer):
    """Every running call gets a response when `step` is called; an empty prompt ends its call."""

    def __init__(self) -> None:
        self._waiting: list[asyncio.Future[None]] = []
        self.size = 1

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    def step(self) -> None:
        waiting, self._waiting = self._waiting, []
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def Generate(self, request: lm.GenerateRequest, _: Any) -> AsyncIterator[lm.GenerateResponse]:
        while request.text:
            future = asyncio.get_running_loop().create_future()
            self._waiting.append(future)
            await future
            yield lm.GenerateResponse(text=request.text * self.size)

    async def Tokenize(self, request: lm.TokenizeRequest, _: Any) -> lm.TokenizeResponse:
        return lm.TokenizeResponse(token_ids=[len(request.text)] * self.size)


async def talk(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield request


class Peer:
    """Speaks Exchange by hand."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._outbox: asyncio.Queue[pb.ExchangeRequest | None] = asyncio.Queue()
        self._call = MultiplexServiceStub(channel).Exchange(self._requests())

    async def _requests(self) -> AsyncIterator[pb.ExchangeRequest]:
        while (request := await self._outbox.get()) is not None:
            yield request

    def send(self, request: pb.ExchangeRequest | None) -> None:
        self._outbox.put_nowait(request)

    def open(self, *call_ids: int, text: str = "a", method: str = GENERATE) -> None:
        content = lm.GenerateRequest(text=text).SerializeToString()
        self.send(pb.ExchangeRequest(opened=[pb.OpenCall(call_id=i, method=method, request=content) for i in call_ids]))

    async def read(self) -> pb.ExchangeResponse | None:
        async with asyncio.timeout(10):
            response = await self._call.read()
        return response if isinstance(response, pb.ExchangeResponse) else None

    async def status(self) -> pb.CallStatus:
        response = await self.read()
        assert response is not None
        (part,) = response.parts
        return part.status


@pytest.fixture
def servicer() -> Stepping:
    return Stepping()


@pytest.fixture
def load() -> LoadMeter:
    return LoadMeter()


@pytest.fixture
def multiplex(servicer: Stepping, load: LoadMeter) -> MultiplexServicer:
    handlers = handler_table(RpcMetrics(CollectorRegistry()), load)
    add_LanguageModelServicer_to_server(servicer, cast("grpc.aio.Server", handlers))
    talking = {"Talk": grpc.stream_stream_rpc_method_handler(talk)}
    handlers.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", talking),))
    return MultiplexServicer(handlers.find, max_calls=40, load=load)


@pytest.fixture
async def peer(multiplex: MultiplexServicer) -> AsyncIterator[Peer]:
    server = grpc.aio.server()
    add_MultiplexServiceServicer_to_server(multiplex, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with open_channel(f"127.0.0.1:{port}") as channel:
        yield Peer(channel)
    await server.stop(None)


async def _all_wait(servicer: Stepping, count: int) -> None:
    await eventually(lambda: servicer.num_waiting >= count)


async def test_what_is_ready_together_travels_in_one_message(peer: Peer, servicer: Stepping) -> None:
    peer.open(*range(1, 33))
    for _ in range(3):
        await _all_wait(servicer, 32)
        servicer.step()

        response = await peer.read()

        assert response is not None
        assert [part.call_id for part in response.parts] == list(range(1, 33))


async def test_a_message_does_not_grow_without_bound(peer: Peer, servicer: Stepping) -> None:
    servicer.size = MAX_BATCH_BYTES // 4
    peer.open(*range(1, 10))
    await _all_wait(servicer, 9)
    servicer.step()

    sizes = []
    while sum(sizes) < 9:
        response = await peer.read()
        assert response is not None
        sizes.append(len(response.parts))

    assert max(sizes) <= 4


async def test_a_unary_call_ends_with_its_response(peer: Peer) -> None:
    content = lm.TokenizeRequest(text="a").SerializeToString()
    peer.send(pb.ExchangeRequest(opened=[pb.OpenCall(call_id=i, method=TOKENIZE, request=content) for i in (1, 2)]))

    parts: list[pb.CallPart] = []
    while len(parts) < 2:
        response = await peer.read()
        assert response is not None
        parts += response.parts

    assert [(part.call_id, part.is_last) for part in parts] == [(1, True), (2, True)]


async def test_a_large_response_comes_in_pieces_that_fit_a_message(peer: Peer, servicer: Stepping) -> None:
    servicer.size = 3 * MAX_BATCH_BYTES
    content = lm.TokenizeRequest(text="a").SerializeToString()
    peer.send(pb.ExchangeRequest(opened=[pb.OpenCall(call_id=1, method=TOKENIZE, request=content)]))

    parts: list[pb.CallPart] = []
    while not parts or not parts[-1].is_last:
        response = await peer.read()
        assert response is not None
        parts += response.parts

    assert len(parts) == 4 and max(len(part.response) for part in parts) == MAX_BATCH_BYTES
    whole = lm.TokenizeResponse.FromString(b"".join(part.response for part in parts))
    assert len(whole.token_ids) == servicer.size


@pytest.mark.parametrize(
    ("method", "content", "code"),
    [
        ("/mesh.v1.LanguageModel/Nothing", b"", grpc.StatusCode.UNIMPLEMENTED),
        (TALK, b"", grpc.StatusCode.UNIMPLEMENTED),
        (GENERATE, b"\xff\xff", grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_what_cannot_be_run_is_refused(peer: Peer, method: str, content: bytes, code: grpc.StatusCode) -> None:
    peer.send(pb.ExchangeRequest(opened=[pb.OpenCall(call_id=1, method=method, request=content)]))

    assert (await peer.status()).code == code.value[0]


async def test_calls_at_one_time_are_bounded(peer: Peer, servicer: Stepping) -> None:
    peer.open(*range(1, 41))
    await _all_wait(servicer, 40)
    peer.open(41)

    assert (await peer.status()).code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]


async def test_an_id_in_use_is_refused_and_its_first_call_goes_on(peer: Peer, servicer: Stepping) -> None:
    peer.open(1, text="first")
    await _all_wait(servicer, 1)
    peer.open(1, text="second")

    assert (await peer.status()).code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    servicer.step()
    response = await peer.read()
    assert response is not None
    assert lm.GenerateResponse.FromString(response.parts[0].response).text == "first"


async def test_a_drain_is_said_at_once_and_calls_are_taken(
    peer: Peer, servicer: Stepping, multiplex: MultiplexServicer
) -> None:
    peer.open(1)
    await _all_wait(servicer, 1)
    multiplex.begin_drain()

    response = await peer.read()

    assert response is not None and response.is_draining and not response.parts
    peer.open(2)
    await _all_wait(servicer, 2)
    servicer.step()
    response = await peer.read()
    assert response is not None and response.is_draining
    assert [part.call_id for part in response.parts] == [1, 2]


async def test_an_exchange_that_is_opened_during_a_drain_is_told_at_once(
    multiplex: MultiplexServicer, peer: Peer
) -> None:
    multiplex.begin_drain()

    response = await peer.read()

    assert response is not None and response.is_draining


async def test_a_server_that_does_not_drain_never_says_so(peer: Peer) -> None:
    peer.send(pb.ExchangeRequest(ping=1))

    response = await peer.read()

    assert response is not None and not response.is_draining


async def test_an_ending_server_says_so_finishes_its_calls_and_takes_none(
    peer: Peer, servicer: Stepping, multiplex: MultiplexServicer
) -> None:
    peer.open(1)
    await _all_wait(servicer, 1)
    multiplex.end()
    response = await peer.read()
    assert response is not None and response.is_draining
    peer.open(2)

    assert (await peer.status()).code == grpc.StatusCode.UNAVAILABLE.value[0]
    servicer.step()
    response = await peer.read()
    assert response is not None and response.parts[0].call_id == 1
    peer.send(pb.ExchangeRequest(cancelled=[1]))
    assert await peer.read() is None


async def test_an_exchange_ends_when_the_peer_closes_its_side_and_its_calls_have_ended(peer: Peer) -> None:
    peer.open(1, text="")
    assert (await peer.status()).code == 0

    peer.send(None)

    assert await peer.read() is None


async def test_a_ping_is_answered_at_once_while_all_calls_wait(peer: Peer, servicer: Stepping) -> None:
    peer.open(*range(1, 33))
    await _all_wait(servicer, 32)
    for number in (1, 2, 77):
        peer.send(pb.ExchangeRequest(ping=number))

        response = await peer.read()

        assert response is not None and response.pong == number and not response.parts


async def test_the_load_is_said_in_mid_stream_whenever_it_has_changed(
    peer: Peer, servicer: Stepping, load: LoadMeter
) -> None:
    num_queued = 3
    load.ask(lambda: Holdings(queued=num_queued))
    peer.open(1)
    seen: list[int] = []
    num_messages = 0
    async with asyncio.timeout(20):
        while seen != [3, 4]:
            await _all_wait(servicer, 1)
            servicer.step()
            response = await peer.read()
            peer.send(pb.ExchangeRequest(credits=[pb.CallCredit(call_id=1, num_responses=1)]))
            assert response is not None
            num_messages += 1
            if response.load_report:
                report = decode_load_report(response.load_report)
                assert report is not None
                seen = list(dict.fromkeys([*seen, report.queued]))
                num_queued = 4

    assert num_messages > len(seen)

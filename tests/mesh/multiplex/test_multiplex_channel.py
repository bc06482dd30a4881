"""Calls that share an Exchange, from the caller's end: to their readers they are calls like any other."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

import grpc
import grpc.aio
import pytest

from mesh import context
from mesh.channel import open_channel
from mesh.errors import Overloaded
from mesh.interceptors import error_trailers
from mesh.load_meter import Holdings, LoadMeter
from mesh.load_report import LoadReport
from mesh.multiplex import INITIAL_CREDIT, MAX_SHARED_REQUEST_BYTES
from mesh.multiplex.channel import MultiplexedChannel, open_multiplexed
from mesh.testing import eventually, serve_on_free_port
from mesh.v1 import language_model_pb2 as pb
from mesh.v1 import multiplex_pb2 as pb_multiplex
from mesh.v1.language_model_pb2_grpc import (
    LanguageModelServicer,
    LanguageModelStub,
    add_LanguageModelServicer_to_server,
)
from mesh.v1.multiplex_pb2_grpc import MultiplexServiceServicer, add_MultiplexServiceServicer_to_server

OPENERS = [open_channel, open_multiplexed]


class Counting(LanguageModelServicer):
    """Counts to max_tokens, or does what the prompt's text says."""

    def __init__(self) -> None:
        self.seen: list[context.RequestContext | None] = []
        self.num_written = 0
        self.num_cancelled = 0
        self.go_on = asyncio.Event()
        self.is_shared = False

    async def Generate(self, request: pb.GenerateRequest, _: Any) -> AsyncIterator[pb.GenerateResponse]:
        self.seen.append(context.current())
        try:
            for number in range(request.sampling.max_tokens):
                yield pb.GenerateResponse(text=f"{request.text}{number}")
                self.num_written += 1
            match request.text:
                case "full":
                    raise Overloaded("the queue is full", retry_after_s=3)
                case "bug":
                    raise ZeroDivisionError("secret")
                case "wait":
                    await self.go_on.wait()
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise

    async def Tokenize(self, request: pb.TokenizeRequest, servicer_context: Any) -> pb.TokenizeResponse:
        """Counts the characters. `is_shared` says how the last call came: only gRPC's own knows its peer."""
        self.seen.append(context.current())
        self.is_shared = not hasattr(servicer_context, "peer")
        try:
            match request.text:
                case "full":
                    raise Overloaded("the queue is full", retry_after_s=3)
                case "bug":
                    raise ZeroDivisionError("secret")
                case "wait":
                    await self.go_on.wait()
        except asyncio.CancelledError:
            self.num_cancelled += 1
            raise
        if request.text.startswith("large"):
            return pb.TokenizeResponse(token_ids=[1] * 3_000_000)
        return pb.TokenizeResponse(token_ids=[len(request.text)])


def asked(text: str, num_responses: int = 2) -> pb.GenerateRequest:
    return pb.GenerateRequest(text=text, sampling=pb.SamplingParameters(max_tokens=num_responses))


async def texts(channel: grpc.aio.Channel, text: str, num_responses: int = 2, timeout: float | None = 20) -> list[str]:
    call = LanguageModelStub(channel).Generate(asked(text, num_responses), timeout=timeout)
    return [response.text async for response in call]


@pytest.fixture
def servicer() -> Counting:
    return Counting()


@pytest.fixture
def load() -> LoadMeter:
    return LoadMeter()


@pytest.fixture
async def address(servicer: Counting, load: LoadMeter) -> AsyncIterator[str]:
    async with serve_on_free_port((add_LanguageModelServicer_to_server, servicer), load=load) as free:
        yield free


@pytest.fixture
async def channel(address: str) -> AsyncIterator[MultiplexedChannel]:
    async with open_multiplexed(address) as opened:
        yield opened


async def test_each_call_gets_its_own_responses_in_order(channel: grpc.aio.Channel) -> None:
    answers = await asyncio.gather(*(texts(channel, f"{name}-", 100) for name in "abcdefgh"))

    assert answers == [[f"{name}-{number}" for number in range(100)] for name in "abcdefgh"]


async def length(channel: grpc.aio.Channel, text: str, timeout: float | None = 20) -> int:
    answer = await LanguageModelStub(channel).Tokenize(pb.TokenizeRequest(text=text), timeout=timeout)
    return answer.token_ids[0] if len(answer.token_ids) == 1 else len(answer.token_ids)


async def test_unary_calls_share_the_exchange_and_get_their_own_answers(
    channel: grpc.aio.Channel, servicer: Counting
) -> None:
    lengths = await asyncio.gather(*(length(channel, "x" * number) for number in range(1, 200)))

    assert lengths == list(range(1, 200))
    assert servicer.is_shared


async def test_a_large_request_goes_alone_and_a_large_answer_comes_whole(
    channel: grpc.aio.Channel, servicer: Counting
) -> None:
    assert await length(channel, "x" * (MAX_SHARED_REQUEST_BYTES + 1)) == MAX_SHARED_REQUEST_BYTES + 1
    assert not servicer.is_shared
    assert await asyncio.gather(length(channel, "large"), length(channel, "small")) == [3_000_000, 5]
    assert servicer.is_shared


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize(
    ("text", "code", "details"),
    [
        ("full", grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full"),
        ("bug", grpc.StatusCode.INTERNAL, "internal error; the logs have it under request id r-1"),
    ],
)
async def test_a_unary_call_fails_as_one_of_its_own(
    address: str, opener: Any, text: str, code: grpc.StatusCode, details: str
) -> None:
    async with opener(address) as channel:
        with context.bind(context.RequestContext("r-1")), pytest.raises(grpc.aio.AioRpcError) as raised:
            await length(channel, text)

    assert (raised.value.code(), raised.value.details()) == (code, details)
    assert dict(raised.value.trailing_metadata() or ())[context.REQUEST_ID_HEADER] == "r-1"


@pytest.mark.parametrize("opener", OPENERS)
async def test_a_unary_call_s_id_and_deadline_go_with_it_and_end_it(
    address: str, servicer: Counting, opener: Any
) -> None:
    async with opener(address) as channel:
        with context.bind(context.RequestContext("r-7", deadline=time.monotonic() + 500)):
            await length(channel, "a", timeout=None)
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await length(channel, "wait", timeout=0.2)
        await eventually(lambda: servicer.num_cancelled == 1)

    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    first = servicer.seen[0]
    assert first is not None and first.request_id == "r-7"
    assert first.deadline is not None and time.monotonic() < first.deadline < time.monotonic() + 510


async def test_a_unary_call_that_is_left_is_cancelled_at_the_peer(
    channel: grpc.aio.Channel, servicer: Counting
) -> None:
    staying, leaving = (asyncio.create_task(length(channel, "wait")) for _ in range(2))
    await eventually(lambda: len(servicer.seen) == 2)
    leaving.cancel()
    await eventually(lambda: servicer.num_cancelled == 1)

    servicer.go_on.set()
    assert await staying == 4
    assert servicer.num_cancelled == 1


async def test_a_peer_that_ends_ends_unary_calls(servicer: Counting) -> None:
    async with serve_on_free_port((add_LanguageModelServicer_to_server, servicer)) as address:
        channel = open_multiplexed(address)
        running = asyncio.create_task(length(channel, "wait"))
        await eventually(lambda: len(servicer.seen) == 1)

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await running
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert not dict(raised.value.trailing_metadata() or ())
    await channel.close()


@pytest.mark.parametrize("opener", OPENERS)
@pytest.mark.parametrize(
    ("text", "code", "details"),
    [
        ("full", grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full"),
        ("bug", grpc.StatusCode.INTERNAL, "internal error; the logs have it under request id r-1"),
    ],
)
async def test_an_error_comes_after_the_responses_with_its_trailers(
    address: str, opener: Any, text: str, code: grpc.StatusCode, details: str
) -> None:
    seen = []
    async with opener(address) as channel:
        with context.bind(context.RequestContext("r-1")), pytest.raises(grpc.aio.AioRpcError) as raised:
            async for response in LanguageModelStub(channel).Generate(asked(text), timeout=20):
                seen.append(response.text)

    assert seen == [f"{text}0", f"{text}1"]
    assert (raised.value.code(), raised.value.details()) == (code, details)
    trailers = dict(raised.value.trailing_metadata() or ())
    assert trailers[context.REQUEST_ID_HEADER] == "r-1"
    assert trailers.get(error_trailers.RETRY_AFTER) == ("3" if text == "full" else None)


@pytest.mark.parametrize("opener", OPENERS)
async def test_the_request_s_id_and_deadline_go_with_it(address: str, servicer: Counting, opener: Any) -> None:
    async with opener(address) as channel:
        with context.bind(context.RequestContext("r-7", deadline=None)):
            await texts(channel, "a", timeout=500)

    (seen,) = servicer.seen
    assert seen is not None and seen.request_id == "r-7"
    assert seen.deadline is not None and time.monotonic() < seen.deadline < time.monotonic() + 510  # gRPC rounds up


async def test_the_exchange_is_not_bound_to_the_request_that_opened_it(
    channel: grpc.aio.Channel, servicer: Counting
) -> None:
    with context.bind(context.RequestContext("first", deadline=0.0)), pytest.raises(grpc.aio.AioRpcError) as raised:
        await texts(channel, "wait", timeout=None)

    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert await texts(channel, "b") == ["b0", "b1"]


@pytest.mark.parametrize("opener", OPENERS)
async def test_a_deadline_ends_the_call_at_both_ends(address: str, servicer: Counting, opener: Any) -> None:
    async with opener(address) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await texts(channel, "wait", timeout=0.2)
        await eventually(lambda: servicer.num_cancelled == 1)

    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_leaving_a_call_cancels_it_and_no_other(channel: grpc.aio.Channel, servicer: Counting) -> None:
    stub = LanguageModelStub(channel)
    staying = asyncio.create_task(texts(channel, "wait"))
    async with aclosing(stub.Generate(asked("wait"), timeout=20)) as left:
        await anext(left)
    await eventually(lambda: servicer.num_cancelled == 1)

    servicer.go_on.set()
    assert await staying == ["wait0", "wait1"]
    assert servicer.num_cancelled == 1


async def test_a_reader_that_stops_holds_up_its_own_call_alone(channel: grpc.aio.Channel, servicer: Counting) -> None:
    async with aclosing(LanguageModelStub(channel).Generate(asked("slow", 1000), timeout=20)) as slow:
        await anext(slow)
        await eventually(lambda: servicer.num_written >= INITIAL_CREDIT)
        num_written = servicer.num_written
        others = await texts(channel, "b", 200)

        assert len(others) == 200
        assert num_written == INITIAL_CREDIT
        assert servicer.num_written == num_written + 200
        assert [response.text async for response in slow] == [f"slow{number}" for number in range(1, 1000)]


async def test_a_peer_that_ends_ends_all_calls_and_its_successor_takes_new_ones(servicer: Counting) -> None:
    async with serve_on_free_port((add_LanguageModelServicer_to_server, servicer)) as address:
        channel = open_multiplexed(address)
        running = [asyncio.create_task(texts(channel, "wait")) for _ in range(3)]
        await eventually(lambda: servicer.num_written == 6)

    ends = await asyncio.gather(*running, return_exceptions=True)
    assert [end.code() for end in ends if isinstance(end, grpc.aio.AioRpcError)] == [grpc.StatusCode.UNAVAILABLE] * 3
    assert not any(dict(end.trailing_metadata() or ()) for end in ends if isinstance(end, grpc.aio.AioRpcError))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await texts(channel, "a")
    assert refused.value.code() is grpc.StatusCode.UNAVAILABLE
    await channel.close()


async def test_a_peer_without_an_exchange_is_called_as_ever(servicer: Counting) -> None:
    server = grpc.aio.server()
    add_LanguageModelServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    async with open_multiplexed(f"127.0.0.1:{port}") as channel:
        assert await asyncio.gather(texts(channel, "a"), texts(channel, "b")) == [["a0", "a1"], ["b0", "b1"]]
        assert await texts(channel, "c") == ["c0", "c1"]
        assert await length(channel, "four") == 4
    async with open_multiplexed(f"127.0.0.1:{port}") as channel:
        assert await length(channel, "four") == 4
        assert not servicer.is_shared
    await server.stop(None)


async def test_closing_the_channel_ends_what_runs(address: str, servicer: Counting) -> None:
    channel = open_multiplexed(address)
    running = asyncio.create_task(texts(channel, "wait"))
    await eventually(lambda: servicer.num_written == 2)

    await channel.close()

    with pytest.raises(grpc.aio.AioRpcError):
        await running
    await eventually(lambda: servicer.num_cancelled == 1)


async def test_the_load_of_the_peer_is_told_while_a_stream_runs(
    channel: MultiplexedChannel, servicer: Counting, load: LoadMeter
) -> None:
    reports: list[LoadReport] = []
    channel.peer.on_load = reports.append
    load.ask(lambda: Holdings(queued=6))

    running = asyncio.create_task(texts(channel, "wait"))
    await eventually(lambda: any(report.queued == 6 for report in reports))

    assert not running.done()
    servicer.go_on.set()
    await running


async def test_the_load_of_the_peer_is_told_after_a_call_of_its_own(
    channel: MultiplexedChannel, load: LoadMeter
) -> None:
    reports: list[LoadReport] = []
    channel.peer.on_load = reports.append
    await length(channel, "x" * (MAX_SHARED_REQUEST_BYTES + 1))
    load.ask(lambda: Holdings(queued=6))

    async with asyncio.timeout(20):
        while not any(report.queued == 6 for report in reports):
            await length(channel, "x" * (MAX_SHARED_REQUEST_BYTES + 1))


async def test_a_peer_that_lies_about_its_form_of_report_is_heard_all_the_same(address: str) -> None:
    server = grpc.aio.server()

    async def exchange(requests: AsyncIterator[Any], _: object) -> AsyncIterator[pb_multiplex.ExchangeResponse]:
        async for request in requests:
            for opened in request.opened:
                status = pb_multiplex.CallStatus(code=9999, details="no such code")
                yield pb_multiplex.ExchangeResponse(
                    parts=[pb_multiplex.CallPart(call_id=opened.call_id, status=status)], load_report=b"\xff\xff"
                )

    servicer = MultiplexServiceServicer()
    servicer.Exchange = exchange  # type: ignore[method-assign, assignment]
    add_MultiplexServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with open_multiplexed(f"127.0.0.1:{port}") as channel:
        for _ in range(2):
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await length(channel, "a")
            assert raised.value.code() is grpc.StatusCode.UNKNOWN
    await server.stop(None)

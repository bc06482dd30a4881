"""Spans, metrics and codes of the server chain, for all four kinds of RPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2
from prometheus_client import CollectorRegistry

from mesh import context
from mesh.errors import NotFound
from mesh.interceptors import handler_table
from mesh.interceptors.handler_table import HandlerTable
from mesh.interceptors.server import ServerInterceptor
from mesh.load_meter import WINDOW_S, Holdings, LoadMeter
from mesh.load_report import TRAILER, decode_load_report
from mesh.metrics import RpcMetrics
from mesh.testing import eventually


async def unary(request: bytes, _context: Any) -> bytes:
    return answer(request)


async def streaming(request: bytes, _context: Any) -> AsyncIterator[bytes]:
    yield answer(request)


async def collecting(requests: AsyncIterator[bytes], _context: Any) -> bytes:
    return b"".join([answer(request) async for request in requests])


async def talking(requests: AsyncIterator[bytes], _context: Any) -> AsyncIterator[bytes]:
    async for request in requests:
        yield answer(request)


async def named(request: health_pb2.HealthCheckRequest, _context: Any) -> bytes:
    return request.service.encode()


async def named_streaming(request: health_pb2.HealthCheckRequest, _context: Any) -> AsyncIterator[bytes]:
    yield request.service.encode()


async def header_of(request: bytes, _context: Any) -> bytes:
    return (context.header(request.decode()) or "none").encode()


async def session_of(_request: bytes, _context: Any) -> bytes:
    handled = context.current()
    return b"" if handled is None else handled.session.encode()


async def flooding(_request: bytes, _context: Any) -> AsyncIterator[bytes]:
    while True:
        yield bytes(1 << 20)


def answer(request: bytes) -> bytes:
    if request == b"absent":
        raise NotFound("no such thing")
    if request == b"bug":
        raise ZeroDivisionError
    return request


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def clock() -> list[float]:
    return [100.0]


@pytest.fixture
def load(clock: list[float]) -> LoadMeter:
    return LoadMeter(lambda: clock[0])


@pytest.fixture
async def channel(registry: CollectorRegistry) -> AsyncIterator[grpc.aio.Channel]:
    table = handler_table(RpcMetrics(registry), LoadMeter())
    handlers = {
        "UnaryUnary": grpc.unary_unary_rpc_method_handler(unary),
        "UnaryStream": grpc.unary_stream_rpc_method_handler(streaming),
        "StreamUnary": grpc.stream_unary_rpc_method_handler(collecting),
        "StreamStream": grpc.stream_stream_rpc_method_handler(talking),
        "Named": grpc.unary_unary_rpc_method_handler(named, health_pb2.HealthCheckRequest.FromString),
        "NamedStream": grpc.unary_stream_rpc_method_handler(named_streaming, health_pb2.HealthCheckRequest.FromString),
        "Header": grpc.unary_unary_rpc_method_handler(header_of),
        "Session": grpc.unary_unary_rpc_method_handler(session_of),
        "Flood": grpc.unary_stream_rpc_method_handler(flooding),
    }
    table.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", handlers),))
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((table,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield channel
    await server.stop(None)


async def call(channel: grpc.aio.Channel, method: str, request: bytes) -> list[bytes]:
    path = f"/t.T/{method}"
    match method:
        case "UnaryUnary" | "Named":
            return [await channel.unary_unary(path)(request, timeout=5)]
        case "UnaryStream" | "NamedStream":
            return [part async for part in channel.unary_stream(path)(request, timeout=5)]
        case "StreamUnary":
            return [await channel.stream_unary(path)(iter([request]), timeout=5)]
    return [part async for part in channel.stream_stream(path)(iter([request]), timeout=5)]


@pytest.mark.parametrize("method", ["UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream"])
async def test_answers_and_errors_pass_and_are_counted(
    channel: grpc.aio.Channel, registry: CollectorRegistry, method: str
) -> None:
    answers = await call(channel, method, b"x")
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call(channel, method, b"absent")

    assert answers == [b"x"]
    assert (failure.value.code(), failure.value.details()) == (grpc.StatusCode.NOT_FOUND, "no such thing")
    labels = {"method": f"/t.T/{method}"}
    counted = {
        code: registry.get_sample_value("meshserve_rpc_handled_total", {**labels, "code": code})
        for code in ("OK", "NOT_FOUND")
    }
    assert counted == {"OK": 1.0, "NOT_FOUND": 1.0}
    assert registry.get_sample_value("meshserve_rpc_in_flight") == 0.0


async def test_handler_sees_the_entries_of_its_metadata_that_are_text(channel: grpc.aio.Channel) -> None:
    metadata = (("x-user", "7"), ("x-user", "8"), ("x-data-bin", b"\xff"))

    async def seen(name: bytes) -> bytes:
        return bytes(await channel.unary_unary("/t.T/Header")(name, metadata=metadata, timeout=5))

    assert [await seen(name) for name in (b"x-user", b"x-data-bin", b"x-other")] == [b"7", b"none", b"none"]


@pytest.mark.parametrize("method", ["Named", "NamedStream"])
@pytest.mark.parametrize("request_", [b"\xff\xff\xff", b"\x0a\x01\xff"], ids=["no message", "not UTF-8"])
async def test_malformed_request_is_the_callers_error(
    channel: grpc.aio.Channel, registry: CollectorRegistry, method: str, request_: bytes
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await call(channel, method, request_)

    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "the request is malformed, or a string in it is not UTF-8" in (failure.value.details() or "")
    labels = {"method": f"/t.T/{method}", "code": "INVALID_ARGUMENT"}
    assert registry.get_sample_value("meshserve_rpc_handled_total", labels) == 1.0
    assert await call(channel, method, b"\x0a\x01x") == [b"x"]


@pytest.mark.parametrize("header", [("x-tenant", "a b"), ("x-priority", "soon")])
async def test_wrong_header_is_the_callers_error(channel: grpc.aio.Channel, header: tuple[str, str]) -> None:
    unary_call = channel.unary_unary("/t.T/UnaryUnary")(b"x", metadata=(header,), timeout=5)
    with pytest.raises(grpc.aio.AioRpcError, match=f"{header[0]} must be") as failure:
        await unary_call
    assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT

    with pytest.raises(grpc.aio.AioRpcError, match=f"{header[0]} must be"):
        async for _ in channel.unary_stream("/t.T/UnaryStream")(b"x", metadata=(header,), timeout=5):
            pass


@pytest.mark.parametrize("name", ["s1", "a b" * 1000, ""])
async def test_a_session_of_any_name_is_taken(channel: grpc.aio.Channel, name: str) -> None:
    ask = channel.unary_unary("/t.T/Session")

    assert await ask(b"", metadata=(("x-session-id", name),), timeout=5) == context.session_from(name).encode()
    assert await ask(b"", timeout=5) == b""


async def test_unknown_method_is_unimplemented(channel: grpc.aio.Channel) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as failure:
        await channel.unary_unary("/t.T/Nothing")(b"", timeout=5)

    assert failure.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_client_that_leaves_while_a_write_waits_for_it_has_cancelled(
    channel: grpc.aio.Channel, registry: CollectorRegistry
) -> None:
    stream = channel.unary_stream("/t.T/Flood")(b"")
    await stream.read()
    stream.cancel()

    def num_handled(code: str) -> float:
        return registry.get_sample_value("meshserve_rpc_handled_total", {"method": "/t.T/Flood", "code": code}) or 0.0

    await eventually(lambda: num_handled("CANCELLED") == 1)
    assert num_handled("INTERNAL") == 0


async def test_client_that_does_not_read_loses_its_place(registry: CollectorRegistry) -> None:
    ended = asyncio.Event()

    async def flood(request: bytes, _context: Any) -> AsyncIterator[bytes]:
        try:
            while True:
                yield bytes(1 << 20)
        finally:
            ended.set()

    table = HandlerTable(ServerInterceptor(RpcMetrics(registry), LoadMeter(), write_timeout_s=0.2).wrap)
    handlers = {"Flood": grpc.unary_stream_rpc_method_handler(flood)}
    table.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("t.T", handlers),))
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((table,))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        call = channel.unary_stream("/t.T/Flood")(b"x")
        await call.read()
        await asyncio.wait_for(ended.wait(), 10)
        await eventually(lambda: registry.get_sample_value("meshserve_rpc_in_flight") == 0, 10)
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            while True:
                await asyncio.wait_for(call.read(), 10)
    await server.stop(None)

    assert failure.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


class Context:
    """What the interceptor asks of a call; keeps its trailing metadata, which gRPC's core would hide from a client."""

    def __init__(self) -> None:
        self.trailers: list[tuple[str, str | bytes]] = []

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    def time_remaining(self) -> None:
        return None

    def set_trailing_metadata(self, trailers: tuple[tuple[str, str | bytes], ...]) -> None:
        self.trailers = list(trailers)

    async def write(self, message: bytes) -> None:
        assert message == b"x"

    async def abort(self, code: object, details: str, trailers: tuple[tuple[str, str | bytes], ...]) -> None:
        self.trailers = list(trailers)


HANDLERS = {
    "UnaryUnary": grpc.unary_unary_rpc_method_handler(unary),
    "UnaryStream": grpc.unary_stream_rpc_method_handler(streaming),
    "StreamUnary": grpc.stream_unary_rpc_method_handler(collecting),
    "StreamStream": grpc.stream_stream_rpc_method_handler(talking),
}


async def trailers_of(load: LoadMeter, method: str, request: bytes) -> list[tuple[str, str | bytes]]:
    """The trailing metadata of a call to its end, whatever that is."""
    wrapped: Any = ServerInterceptor(RpcMetrics(CollectorRegistry()), load).wrap(method, HANDLERS[method])
    behaviour = wrapped.unary_unary or wrapped.unary_stream or wrapped.stream_unary or wrapped.stream_stream

    async def requests() -> AsyncIterator[bytes]:
        yield request

    servicer_context = Context()
    await behaviour(requests() if wrapped.request_streaming else request, servicer_context)
    return servicer_context.trailers


@pytest.mark.parametrize("method", HANDLERS)
@pytest.mark.parametrize("request_bytes", [b"x", b"absent"])
async def test_every_end_says_how_full_the_server_is(load: LoadMeter, method: str, request_bytes: bytes) -> None:
    load.ask(lambda: Holdings(queued=5, queued_tokens=90, kv_usage=0.5))

    trailers = dict(await trailers_of(load, method, request_bytes))

    encoded = trailers[TRAILER]
    assert isinstance(encoded, bytes)
    report = decode_load_report(encoded)
    assert report is not None and (report.queued, report.queued_tokens, report.kv_usage) == (5, 90, 0.5)
    assert (context.REQUEST_ID_HEADER in trailers) == (request_bytes == b"absent")
    assert load.report().work == 0.0


async def test_what_tells_nothing_of_the_load_is_not_counted(load: LoadMeter) -> None:
    wrapped: Any = ServerInterceptor(RpcMetrics(CollectorRegistry()), load).wrap(
        "/grpc.health.v1.Health/Check", HANDLERS["UnaryUnary"]
    )
    servicer_context = Context()
    await wrapped.unary_unary(b"x", servicer_context)

    assert servicer_context.trailers == []


async def test_only_the_server_s_own_faults_count_as_its_errors(load: LoadMeter, clock: list[float]) -> None:
    await trailers_of(load, "UnaryUnary", b"absent")
    await trailers_of(load, "UnaryUnary", b"bug")
    clock[0] += WINDOW_S

    report = load.report()

    assert report.requests_per_s == 2 * report.errors_per_s > 0

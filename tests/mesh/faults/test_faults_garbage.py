"""A replica that answers what is no answer: its calls go elsewhere, and it is kept out."""

from __future__ import annotations

import asyncio

import pytest

from mesh.errors import Unavailable
from mesh.multiplex import MAX_SHARED_REQUEST_BYTES
from tests.mesh.faults.raw_peer import (
    DATA,
    END_STREAM,
    GOAWAY,
    INTERNAL_ERROR,
    NO_ERROR,
    Answer,
    OnConnection,
    frame,
    head,
    http2,
    message,
    raw_peer,
    reset,
    status,
)
from tests.mesh.faults.rig import beside
from tests.mesh.pool_rig import PREDICTOR, Source, live, pool_over, predictor

# No protobuf message: a varint without an end.
UNPARSABLE = b"\xff" * 12


async def noise(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"\x00\xff" * 2048)
    await writer.drain()
    await reader.read()


async def http1(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(1)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")
    await writer.drain()


ANSWERS: dict[str, Answer] = {
    "a web page": lambda stream_id: [
        head(stream_id, content_type="text/html"),
        frame(DATA, END_STREAM, stream_id, b"<html>hello</html>"),
        reset(stream_id, NO_ERROR),
    ],
    "not found": lambda stream_id: [
        head(stream_id, "404", "text/html"),
        frame(DATA, END_STREAM, stream_id, b"there is no such page"),
        reset(stream_id, NO_ERROR),
    ],
    "bytes that are no gRPC frame": lambda stream_id: [
        head(stream_id),
        frame(DATA, END_STREAM, stream_id, b"\x07" * 40),
        reset(stream_id, NO_ERROR),
    ],
    "a message that cannot be parsed": lambda stream_id: [
        head(stream_id),
        message(stream_id, UNPARSABLE),
        status(stream_id, 0),
    ],
    "OK and no message": lambda stream_id: [head(stream_id), status(stream_id, 0)],
    "an empty message and OK": lambda stream_id: [head(stream_id), message(stream_id, b""), status(stream_id, 0)],
    "a reset": lambda stream_id: [head(stream_id), reset(stream_id, INTERNAL_ERROR)],
    "a head and the end of the connection": lambda stream_id: [head(stream_id), None],
    "the end of the connection": lambda _stream_id: [None],
    "a goodbye": lambda _stream_id: [frame(GOAWAY, 0, 0, bytes(8)), None],
}
PEERS: dict[str, OnConnection] = {"noise": noise, "HTTP/1": http1, **{name: http2(ANSWERS[name]) for name in ANSWERS}}


@pytest.mark.parametrize("name", PEERS)
async def test_calls_go_elsewhere_and_the_replica_is_kept_out(name: str) -> None:
    async with raw_peer(PEERS[name]) as address, beside(address) as both, asyncio.timeout(15):
        await both.all_are_answered()

        assert both.healthy.num_calls == 60
        assert both.count("ejections") >= 1
        # Six at a time may meet it before the first of them has failed; then it is tried once a second and less.
        assert 1 <= both.count("retries") <= 12


@pytest.mark.parametrize("name", sorted(PEERS.keys() - {"an empty message and OK"}))
async def test_calls_that_travel_alone_go_elsewhere_as_well(name: str) -> None:
    large = "x" * (MAX_SHARED_REQUEST_BYTES + 1)
    async with raw_peer(PEERS[name]) as address, beside(address) as both, asyncio.timeout(15):
        for _ in range(10):
            assert await both.unary(large) == [len(large)]

        assert both.healthy.num_calls == 10
        assert both.count("ejections") >= 1


async def test_with_nobody_else_the_caller_is_told_that_the_answers_are_broken() -> None:
    async with raw_peer(PEERS["a reset"]) as address, asyncio.timeout(15):
        async with pool_over(Source(predictor("faulty", address))) as pool:
            with pytest.raises(Unavailable, match="the predictor for 'iris' (gives broken answers|cannot be reached)"):
                await pool.unary(PREDICTOR, "iris", live)

"""The client against a server of a few lines that speaks OpenAI's event stream over a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any

import pytest

from bench.llm.answer import BadAnswer, Part, Usage
from bench.llm.openai_client import OpenAIClient, parse_line


class FakeServer:
    """Answers each request with `body`. requests: the bodies that came. gone: set when a client left a stream open."""

    def __init__(self, status: str, body: bytes, *, stays_open: bool = False) -> None:
        self.requests: list[dict[str, Any]] = []  # Any: JSON
        self.gone = asyncio.Event()
        self._answer = (
            f"HTTP/1.1 {status}\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n".encode() + body
        )
        self._stays_open = stays_open

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
        self.requests.append(json.loads(await reader.readexactly(length)))
        writer.write(self._answer)
        await writer.drain()
        if self._stays_open and not await reader.read():
            self.gone.set()
        writer.close()


@asynccontextmanager
async def connected(fake: FakeServer) -> AsyncIterator[OpenAIClient]:
    server = await asyncio.start_server(fake.serve, "127.0.0.1", 0)
    async with server:
        client = OpenAIClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", "smollm2")
        yield client
        await client.close()


def event(**fields: object) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


async def test_text_and_usage_are_read_and_the_request_asks_for_exactly_so_many_greedy_tokens() -> None:
    stream = (
        event(choices=[{"index": 0, "text": " Paris"}])
        + b": a comment that keeps the connection\n\n"
        + event(choices=[{"index": 0, "text": "", "finish_reason": "length"}], usage=None)
        + event(choices=[], usage={"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7})
        + b"data: [DONE]\n\n"
    )
    fake = FakeServer("200 OK", stream)

    async with connected(fake) as client:
        parts = [part async for part in client.complete("The capital of France is", 2)]

    assert parts == [Part(True), Part(False), Part(False, Usage(5, 2))]
    asked = fake.requests[0]
    assert (asked["prompt"], asked["max_tokens"], asked["temperature"]) == ("The capital of France is", 2, 0)
    assert asked["ignore_eos"] and asked["stream"] and asked["stream_options"] == {"include_usage": True}


async def test_a_refusal_says_what_the_server_said() -> None:
    async with connected(FakeServer("503 Service Unavailable", b'{"error": "loading"}')) as client:
        with pytest.raises(BadAnswer, match="503.*loading"):
            [part async for part in client.complete("x", 1)]


async def test_an_error_in_the_stream_is_a_bad_answer() -> None:
    async with connected(FakeServer("200 OK", event(error={"message": "engine died"}))) as client:
        with pytest.raises(BadAnswer, match="engine died"):
            [part async for part in client.complete("x", 1)]


async def test_nobody_there_is_a_bad_answer() -> None:
    client = OpenAIClient("http://127.0.0.1:1", "smollm2")

    with pytest.raises(BadAnswer, match="ConnectError"):
        [part async for part in client.complete("x", 1)]


async def test_closing_the_stream_early_leaves_the_server() -> None:
    fake = FakeServer("200 OK", event(choices=[{"index": 0, "text": "a"}]), stays_open=True)

    async with connected(fake) as client:
        async with aclosing(client.complete("x", 100)) as parts:
            assert await anext(parts) == Part(True)
        await asyncio.wait_for(fake.gone.wait(), 10)


def test_lines_without_data_are_no_parts() -> None:
    assert [parse_line(line) for line in ("", ": ping", "event: x", "data: [DONE]")] == [None] * 4

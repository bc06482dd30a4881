"""Peers that no gRPC library would make: bytes on a socket, and just enough of HTTP/2 to answer wrongly.

Frames as in RFC 9113, headers as HPACK literals without indexing (RFC 7541, 6.2.2), so nothing has to be compressed.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY = 0, 1, 3, 4, 6, 7
END_STREAM, ACK, END_HEADERS = 1, 1, 4
INTERNAL_ERROR, NO_ERROR = 2, 0
PREFACE_BYTES = len(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")

OnConnection = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
# From the stream's id: the bytes to answer a request with; None: close the connection after what was answered before.
Answer = Callable[[int], list[bytes | None]]


@asynccontextmanager
async def raw_peer(on_connection: OnConnection) -> AsyncIterator[str]:
    """A server that does with each connection what it is told; gives "127.0.0.1:port"."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await on_connection(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has left
        finally:
            writer.close()

    def on_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    server = await asyncio.start_server(on_client, "127.0.0.1", 0)
    try:
        yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream_id) + payload


def literals(**headers: str) -> bytes:
    """A header block; the name's leading colon is written as an underscore, and a hyphen as well."""
    block = b""
    for name, value in headers.items():
        wire_name = (":" + name[1:] if name.startswith("_") else name).replace("_", "-").encode()
        block += b"\0" + bytes([len(wire_name)]) + wire_name + bytes([len(value)]) + value.encode()
    return block


def head(stream_id: int, status: str = "200", content_type: str = "application/grpc") -> bytes:
    return frame(HEADERS, END_HEADERS, stream_id, literals(_status=status, content_type=content_type))


def message(stream_id: int, content: bytes) -> bytes:
    """As gRPC frames a message: not compressed, its length, its bytes."""
    return frame(DATA, 0, stream_id, b"\0" + struct.pack(">I", len(content)) + content)


def status(stream_id: int, code: int) -> bytes:
    """The end of a stream as a server has it that does not wait for the end of the request."""
    trailers = frame(HEADERS, END_HEADERS | END_STREAM, stream_id, literals(grpc_status=str(code)))
    return trailers + reset(stream_id, NO_ERROR)


def reset(stream_id: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream_id, struct.pack(">I", code))


def http2(answer: Answer) -> OnConnection:
    """A peer that speaks HTTP/2, and answers the head of each request with `answer`."""

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(frame(SETTINGS, 0, 0))
        await reader.readexactly(PREFACE_BYTES)
        while True:
            start = await reader.readexactly(9)
            payload = await reader.readexactly(int.from_bytes(start[:3]))
            kind, flags, stream_id = start[3], start[4], int.from_bytes(start[5:])
            if kind in (SETTINGS, PING) and not flags & ACK:
                writer.write(frame(kind, ACK, 0, payload if kind == PING else b""))
            if kind == HEADERS:
                for part in answer(stream_id):
                    if part is None:
                        await writer.drain()
                        return
                    writer.write(part)
            await writer.drain()

    return on_connection

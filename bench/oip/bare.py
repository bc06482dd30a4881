"""Servers that do nothing but what a server cannot do without: the limits that the others are held against.

`python -m bench.oip.bare KIND PORT [TARGET_PORT]`: an echo that parses and builds no message (gRPC's asyncio server,
gRPC's threaded server, an ASGI application), or a proxy that passes bytes on. All answer with a ready response, so that
client and wire carry the same bytes as for a real server.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import grpc.aio
import uvicorn
import uvloop

from bench.oip.message import MODEL_INFER, MODEL_STREAM_INFER, SMALL

_THREADS = 4


class _Handlers(grpc.GenericRpcHandler):
    def __init__(self, unary: Any, stream: Any) -> None:  # Any: plain functions or coroutines, as the server has it
        self._handlers = {
            MODEL_INFER: grpc.unary_unary_rpc_method_handler(unary),
            MODEL_STREAM_INFER: grpc.stream_stream_rpc_method_handler(stream),
        }

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return self._handlers.get(handler_call_details.method)


async def serve_aio(port: int) -> None:
    """A gRPC echo on asyncio."""

    async def unary(_request: bytes, _context: object) -> bytes:
        return SMALL.response

    async def stream(requests: AsyncIterator[bytes], _context: object) -> AsyncIterator[bytes]:
        async for _ in requests:
            yield SMALL.stream_response

    await _run(_Handlers(unary, stream), port)


async def serve_proxy(port: int, target_port: int) -> None:
    """A hop that passes unary and streamed messages on as they are, to one peer over one channel."""
    async with grpc.aio.insecure_channel(f"127.0.0.1:{target_port}") as channel:
        infer: Any = channel.unary_unary(MODEL_INFER)
        stream_infer: Any = channel.stream_stream(MODEL_STREAM_INFER)

        async def unary(request: bytes, _context: object) -> bytes:
            response: bytes = await infer(request)
            return response

        async def stream(requests: AsyncIterator[bytes], _context: object) -> AsyncIterator[bytes]:
            async for response in stream_infer(requests):
                yield response

        await _run(_Handlers(unary, stream), port)


async def _run(handlers: grpc.GenericRpcHandler, port: int) -> None:
    server = grpc.aio.server()
    server.add_generic_rpc_handlers((handlers,))
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


def serve_sync(port: int) -> None:
    """A gRPC echo on threads."""

    def unary(_request: bytes, _context: object) -> bytes:
        return SMALL.response

    def stream(requests: Iterator[bytes], _context: object) -> Iterator[bytes]:
        for _ in requests:
            yield SMALL.stream_response

    server = grpc.server(ThreadPoolExecutor(_THREADS))
    server.add_generic_rpc_handlers((_Handlers(unary, stream),))
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


def serve_asgi(port: int) -> None:
    """An HTTP echo: an ASGI application without a framework on uvicorn, the gateway's server."""

    async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
        while (await receive()).get("more_body"):
            pass
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(SMALL.json_response))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": SMALL.json_response})

    uvicorn.run(application, port=port, log_level="warning", access_log=False, lifespan="off", loop="uvloop")


def main() -> None:
    kind, port, *rest = sys.argv[1:]
    if kind == "aio":
        uvloop.run(serve_aio(int(port)))
    elif kind == "proxy":
        uvloop.run(serve_proxy(int(port), int(rest[0])))
    elif kind == "sync":
        serve_sync(int(port))
    elif kind == "asgi":
        serve_asgi(int(port))
    else:
        sys.exit(f"bare: there is no '{kind}'; there are aio, sync, proxy, asgi")


if __name__ == "__main__":
    main()

"""`python -m bench.gateway.byte_proxy PORT TARGET_PORT`: the least that a hop of gRPC in Python can be.

Passes calls on to one peer over one channel, as bytes. It counts, records, balances and retries nothing.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import uvloop

from bench.gateway.backend import GENERATE, Handlers, serve_bare
from bench.oip.message import MODEL_INFER


async def serve(port: int, target_port: int) -> None:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{target_port}") as channel:
        infer: Any = channel.unary_unary(MODEL_INFER)
        generate: Any = channel.unary_stream(GENERATE)

        async def on_unary(request: bytes, _context: object) -> bytes:
            response: bytes = await infer(request)
            return response

        async def on_generate(request: bytes, _context: object) -> AsyncIterator[bytes]:
            async for response in generate(request):
                yield response

        await serve_bare(Handlers(on_unary, on_generate), port)


if __name__ == "__main__":
    _port, _target_port = map(int, sys.argv[1:])
    uvloop.run(serve(_port, _target_port))

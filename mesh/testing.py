"""Servicers on a real server and channel for tests: about 3 ms, so nothing needs a mock of a stub, nor a sleep."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, cast

import grpc.aio
from prometheus_client import CollectorRegistry

from mesh.channel import MAX_MESSAGE_BYTES, open_channel
from mesh.interceptors import handler_table
from mesh.load_meter import LoadMeter
from mesh.metrics import RpcMetrics
from mesh.multiplex.servicer import MultiplexServicer
from mesh.serve import server_options
from mesh.v1.multiplex_pb2_grpc import add_MultiplexServiceServicer_to_server

Registration = tuple[Callable[[Any, grpc.aio.Server], None], object]


@asynccontextmanager
async def serve_on_free_port(*registrations: Registration, load: LoadMeter | None = None) -> AsyncIterator[str]:
    """Serve the servicers as a real service does, multiplexed as well; gives "127.0.0.1:port"."""
    load = load or LoadMeter()
    handlers = handler_table(RpcMetrics(CollectorRegistry()), load)
    server = grpc.aio.server(options=server_options(MAX_MESSAGE_BYTES))
    server.add_generic_rpc_handlers((handlers,))
    services: list[Registration] = [
        (add_MultiplexServiceServicer_to_server, MultiplexServicer(handlers.find, 1024, load)),
        *registrations,
    ]
    for register, servicer in services:
        register(servicer, cast("grpc.aio.Server", handlers))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@asynccontextmanager
async def serve_in_process(*registrations: Registration) -> AsyncIterator[grpc.aio.Channel]:
    """As `serve_on_free_port`, with a channel to it."""
    async with serve_on_free_port(*registrations) as address, open_channel(address) as channel:
        yield channel


async def eventually(condition: Callable[[], bool], timeout_s: float = 5.0) -> None:
    """Wait until `condition()` holds. Raises TimeoutError."""
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110 -- any condition, also one that no event tells of
            await asyncio.sleep(0.005)

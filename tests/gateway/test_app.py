"""The HTTP server: its port, its end, and its answers when a bug or a drain comes."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from gateway.app import HttpServer
from gateway.edge import Edge
from gateway.exchange import Exchange, Recorder
from gateway.settings import GatewaySettings
from mesh.serve import PortTaken
from tests.gateway.conftest import eventually, open_door


def settings(port: int = 0) -> GatewaySettings:
    return GatewaySettings(http_port=port, grace_s=2)


async def test_taken_port_is_one_clear_error() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]

        with pytest.raises(PortTaken, match=f"127.0.0.1:{port} \\(--http-port\\)"):
            await HttpServer(never, settings(port)).start()


async def test_it_dates_its_answers_and_ends_when_told() -> None:
    async def hello(_scope: Scope, _receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"hello"})

    server = HttpServer(hello, settings())
    await server.start()
    async with httpx.AsyncClient() as client:
        answer = await client.get(f"http://{server.address}")

    await server.stop()

    assert (answer.text, "date" in answer.headers) == ("hello", True)
    with pytest.raises(httpx.ConnectError):
        await httpx.AsyncClient().get(f"http://{server.address}")


async def never(_scope: Scope, _receive: Receive, _send: Send) -> None:
    raise AssertionError("not asked")


async def test_bug_in_a_handler_is_a_500_that_names_the_request_only() -> None:
    async def broken(_scope: Scope, _receive: Receive, _send: Send) -> None:
        raise ZeroDivisionError("secret")

    finished: list[Exchange] = []
    edge = Edge(
        broken,
        recorder=Recorder([finished.append], max_payload_bytes=100),
        max_body_bytes=1000,
        compress_min_bytes=4096,
        body_timeout_s=1,
        request_timeout_s=5,
        max_concurrent_requests=8,
    )
    transport = httpx.ASGITransport(edge)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        answer = await client.get("/v2", headers={"x-request-id": "r-9"})

    assert answer.status_code == 500
    assert answer.json() == {"error": "internal error; the logs have it under request id r-9"}
    assert (finished[0].code, finished[0].status) == ("INTERNAL", "500")


async def test_drain_finishes_running_streams_and_takes_no_new_connections(tmp_path: Path) -> None:
    async with open_door(tmp_path, grace_s=10) as door:
        ready = await door.http.get("/v2/health/ready")
        body = {"model": "chat", "prompt": "waits", "stream": True}
        async with door.http.stream("POST", "/v1/completions", json=body) as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            serving = asyncio.create_task(door.gateway.server.serve_until_terminated())
            await asyncio.sleep(0)
            door.gateway.server.request_stop()
            await eventually(lambda: _refuses(door.gateway.http.address))
            door.model.gate.set()
            rest = [line async for line in lines if line]
        await serving

    assert ready.status_code == 200
    assert rest[-1] == "data: [DONE]"


async def test_draining_gateway_is_not_ready(tmp_path: Path) -> None:
    async with open_door(tmp_path, drain_s=1) as door:
        serving = asyncio.create_task(door.gateway.server.serve_until_terminated())
        await asyncio.sleep(0)
        door.gateway.server.request_stop()

        async def is_not_ready() -> bool:
            return (await door.http.get("/v2/health/ready")).status_code == 503

        await eventually(is_not_ready)
        assert (await door.http.get("/v2/health/live")).status_code == 200
        await serving


async def _refuses(address: str) -> bool:
    host, _, port = address.rpartition(":")
    try:
        _, writer = await asyncio.open_connection(host, int(port))
    except OSError:
        return True
    writer.close()
    return False

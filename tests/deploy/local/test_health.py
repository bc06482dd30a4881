"""A service answers when its ready file is its own and its health says so; changes are seen as they happen."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from deploy.local.health import Health, wait_for_ready_file, watch
from mesh.channel import open_channel
from mesh.testing import serve_in_process, serve_on_free_port

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


async def test_the_ready_file_of_an_earlier_process_does_not_count(tmp_path: Path) -> None:
    path = tmp_path / "gateway.json"
    path.write_text(json.dumps({"pid": 1, "grpc_address": "old:1"}))
    waiting = asyncio.create_task(wait_for_ready_file(path, 2))
    await asyncio.sleep(0)
    assert not waiting.done()

    path.write_text(json.dumps({"pid": 2, "grpc_address": "new:2"}))

    assert await asyncio.wait_for(waiting, 10) == "new:2"


async def test_each_change_is_told_once() -> None:
    health = health_aio.HealthServicer()
    async with serve_in_process((health_pb2_grpc.add_HealthServicer_to_server, health)) as channel:
        changes = watch(channel, "iris")

        assert await anext(changes) is Health.NOT_SERVING
        await health.set("iris", SERVING)
        assert await anext(changes) is Health.SERVING
        await health.set("iris", NOT_SERVING)
        assert await anext(changes) is Health.NOT_SERVING


async def test_a_server_that_is_silent_is_asked() -> None:
    class Forgetful(health_aio.HealthServicer):
        """Tells no change to those who watch."""

        async def set(self, service: str, status: int) -> None:
            self._server_status[service] = status

    health = Forgetful()
    async with serve_in_process((health_pb2_grpc.add_HealthServicer_to_server, health)) as channel:
        changes = watch(channel, "iris", probe_s=0.05)
        assert await anext(changes) is Health.NOT_SERVING

        await health.set("iris", SERVING)

        assert await asyncio.wait_for(anext(changes), 10) is Health.SERVING


async def test_a_lost_connection_is_no_answer() -> None:
    health = health_aio.HealthServicer()
    async with serve_on_free_port((health_pb2_grpc.add_HealthServicer_to_server, health)) as address:
        channel = open_channel(address)
        await health.set("", SERVING)
        changes = watch(channel, "")
        assert await anext(changes) is Health.SERVING

    assert await anext(changes) is Health.NO_ANSWER
    await channel.close()

"""When a service answers, asked in the only two ways that every service has: its ready file, and gRPC health.

Health is watched, not polled (`grpc.health.v1.Health/Watch`): a change is known as soon as it happens.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import grpc.aio
from grpc_health.v1 import health_pb2, health_pb2_grpc

_POLL_S = 0.05
_RETRY_S = 0.2


async def wait_for_ready_file(path: Path, pid: int) -> str:
    """Wait until the process `pid` has written its ready file; gives the address of its gRPC server."""
    # Portable notice of a new file does not exist, so this looks again.
    while (address := _address_of(path, pid)) is None:  # noqa: ASYNC110
        await asyncio.sleep(_POLL_S)
    return address


async def watch(channel: grpc.aio.Channel, name: str) -> AsyncIterator[bool]:
    """Whether the service or model `name` serves: now, and at every change. A lost connection is False."""
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=name)
    was_serving: bool | None = None
    while True:
        try:
            async for response in stub.Watch(request):
                is_serving = response.status == health_pb2.HealthCheckResponse.SERVING
                if is_serving != was_serving:
                    was_serving = is_serving
                    yield is_serving
        except grpc.aio.AioRpcError:
            if was_serving is not False:
                was_serving = False
                yield False
        await asyncio.sleep(_RETRY_S)


def _address_of(path: Path, pid: int) -> str | None:
    try:
        record = json.loads(path.read_bytes())
        return str(record["grpc_address"]) if record["pid"] == pid else None
    except (OSError, ValueError, KeyError, TypeError):
        return None

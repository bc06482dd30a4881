"""When a service answers, asked in the only two ways that every service has: its ready file, and gRPC health.

Health is watched, not polled (`grpc.health.v1.Health/Watch`): a change is known as soon as it happens.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from enum import Enum
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


class Health(Enum):
    """What a service says of itself or of a model, or that it says nothing."""

    SERVING = "serving"
    NOT_SERVING = "not serving"
    NO_ANSWER = "no answer"


async def watch(channel: grpc.aio.Channel, name: str) -> AsyncIterator[Health]:
    """The health of the service or model `name`: now, and at every change."""
    last: Health | None = None
    async for health in _answers(channel, name):
        if health is not last:
            last = health
            yield health


async def _answers(channel: grpc.aio.Channel, name: str) -> AsyncIterator[Health]:
    stub = health_pb2_grpc.HealthStub(channel)
    request = health_pb2.HealthCheckRequest(service=name)
    while True:
        try:
            # No deadline: it lasts as long as the service. The channel's keepalive notices one that is frozen.
            async for response in stub.Watch(request):
                serves = response.status == health_pb2.HealthCheckResponse.SERVING
                yield Health.SERVING if serves else Health.NOT_SERVING
        except grpc.aio.AioRpcError:
            yield Health.NO_ANSWER
        await asyncio.sleep(_RETRY_S)


def _address_of(path: Path, pid: int) -> str | None:
    try:
        record = json.loads(path.read_bytes())
        return str(record["grpc_address"]) if record["pid"] == pid else None
    except (OSError, ValueError, KeyError, TypeError):
        return None

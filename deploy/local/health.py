"""When a service answers, asked in the only two ways that every service has: its ready file, and gRPC health.

Health is watched (`grpc.health.v1.Health/Watch`): a change is known as soon as it happens.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from enum import Enum
from pathlib import Path

import grpc
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


async def watch(channel: grpc.aio.Channel, name: str, *, probe_s: float = 5.0) -> AsyncIterator[Health]:
    """The health of the service or model `name`: now, and at every change.

    After `probe_s` seconds without news it is asked for: a process that is frozen sends none, and the kernel keeps its
    connections open.
    """
    stub = health_pb2_grpc.HealthStub(channel)
    last: Health | None = None
    while True:
        async with aclosing(_answers(stub, name, probe_s)) as answers:
            async for health in answers:
                if health is not last:
                    last = health
                    yield health
        await asyncio.sleep(_RETRY_S)


async def _answers(stub: health_pb2_grpc.HealthStub, name: str, probe_s: float) -> AsyncGenerator[Health, None]:
    """What one Watch stream says, and what Check says while the stream is silent; ends with the stream."""
    request = health_pb2.HealthCheckRequest(service=name)
    stream = stub.Watch(request)
    reading = asyncio.ensure_future(stream.read())
    try:
        while True:
            # Not wait_for: a cancelled read would cancel the stream.
            await asyncio.wait({reading}, timeout=probe_s)
            if reading.done():
                response = reading.result()
                if response is grpc.aio.EOF:
                    return
                yield _meaning(response)
                reading = asyncio.ensure_future(stream.read())
            else:
                yield await _asked(stub, request, probe_s)
    except grpc.aio.AioRpcError:
        yield Health.NO_ANSWER
    finally:
        stream.cancel()
        reading.cancel()
        await asyncio.gather(reading, return_exceptions=True)


async def _asked(stub: health_pb2_grpc.HealthStub, request: health_pb2.HealthCheckRequest, timeout_s: float) -> Health:
    try:
        return _meaning(await stub.Check(request, timeout=timeout_s))
    except grpc.aio.AioRpcError as error:
        # Watch says "not yet" of a name that Check does not know.
        return Health.NOT_SERVING if error.code() is grpc.StatusCode.NOT_FOUND else Health.NO_ANSWER


def _meaning(response: health_pb2.HealthCheckResponse) -> Health:
    return Health.SERVING if response.status == health_pb2.HealthCheckResponse.SERVING else Health.NOT_SERVING


def _address_of(path: Path, pid: int) -> str | None:
    try:
        record = json.loads(path.read_bytes())
        return str(record["grpc_address"]) if record["pid"] == pid else None
    except (OSError, ValueError, KeyError, TypeError):
        return None

"""A read is interrupted when the replica has left and another can take over, and not otherwise."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import grpc.aio
import pytest

from mesh.departure import Departure, ReplicaLeft
from mesh.endpoints import Endpoint
from mesh.v1.registry_pb2 import Replica


class Messages:
    """Counts up as far as it is let, and notices how it was left."""

    def __init__(self) -> None:
        self.allowed = asyncio.Semaphore(0)
        self.is_closed = False

    async def stream(self) -> AsyncGenerator[int, None]:
        number = 0
        try:
            while True:
                await self.allowed.acquire()
                yield number
                number += 1
        finally:
            self.is_closed = True


@pytest.fixture
async def endpoint() -> Endpoint:
    return Endpoint(Replica(id="a"), grpc.aio.insecure_channel("127.0.0.1:1"))


async def test_messages_pass_while_the_replica_is_there(endpoint: Endpoint) -> None:
    messages = Messages()
    stream = messages.stream()
    departure = Departure(endpoint, lambda: True, grace_s=0)
    messages.allowed.release()
    messages.allowed.release()

    assert [await departure.read(stream), await departure.read(stream)] == [0, 1]
    departure.close()


async def test_a_waiting_read_is_interrupted_and_the_task_goes_on(endpoint: Endpoint) -> None:
    messages = Messages()
    departure = Departure(endpoint, lambda: True, grace_s=0)
    asyncio.get_running_loop().call_later(0.01, endpoint.departing.set)

    with pytest.raises(ReplicaLeft):
        await departure.read(messages.stream())

    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert messages.is_closed
    await asyncio.sleep(0)  # would raise if the cancel were still on its way


async def test_the_next_read_is_refused_when_nobody_was_reading(endpoint: Endpoint) -> None:
    asked = asyncio.Event()

    def may_move() -> bool:
        asked.set()
        return True

    messages = Messages()
    messages.allowed.release()
    departure = Departure(endpoint, may_move, grace_s=0)
    endpoint.departing.set()
    await asked.wait()

    with pytest.raises(ReplicaLeft):
        await departure.read(messages.stream())


async def test_a_stream_that_nobody_else_can_take_stays(endpoint: Endpoint) -> None:
    asked = asyncio.Event()

    def may_move() -> bool:
        asked.set()
        return False

    messages = Messages()
    departure = Departure(endpoint, may_move, grace_s=0)
    endpoint.departing.set()
    reading = asyncio.ensure_future(departure.read(messages.stream()))
    await asked.wait()
    messages.allowed.release()

    assert await reading == 0
    departure.close()


async def test_a_cancel_from_elsewhere_is_a_cancel(endpoint: Endpoint) -> None:
    moved = asyncio.Event()

    def may_move() -> bool:
        moved.set()
        reading.cancel()  # at the same moment as the interruption
        return True

    departure = Departure(endpoint, may_move, grace_s=0)
    reading = asyncio.ensure_future(departure.read(Messages().stream()))
    await asyncio.sleep(0)
    endpoint.departing.set()

    with pytest.raises(asyncio.CancelledError):
        await reading
    assert moved.is_set()


async def test_an_error_of_the_stream_is_the_reader_s(endpoint: Endpoint) -> None:
    async def failing() -> AsyncGenerator[int, None]:
        raise ValueError("broken")
        yield 0

    departure = Departure(endpoint, lambda: True, grace_s=0)

    with pytest.raises(ValueError, match="broken"):
        await departure.read(failing())
    departure.close()

"""A replica in a process of its own that freezes (SIGSTOP): what it had ends in time, nothing new fails, it comes back.

It is frozen until everything that its silence must lead to has been seen, so the tests take no longer than they must.
"""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial

import pytest

from mesh.errors import Unavailable
from mesh.multiplex.channel import open_multiplexed
from mesh.pool import Channel, EndpointPool
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.language_model_pb2_grpc import LanguageModelStub
from mesh.v1.registry_pb2 import Replica
from mesh.view import MeshView
from tests.mesh.pool_rig import PREDICTOR, predictor, view_of

LIVENESS_TIMEOUT_S = 1.5

# Generate streams until it is cancelled; Tokenize says who answers, and how many streams run there. For the text "busy"
# it first holds up its whole interpreter: PyDLL keeps the lock that other threads need.
_REPLICA = """
import asyncio, ctypes, sys
from mesh.testing import serve_on_free_port
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.language_model_pb2_grpc import LanguageModelServicer, add_LanguageModelServicer_to_server

class Replica(LanguageModelServicer):
    num_running = 0
    async def Generate(self, request, context):
        self.num_running += 1
        try:
            while True:
                yield lm.GenerateResponse(text=sys.argv[1])
                await asyncio.sleep(0.01)
        finally:
            self.num_running -= 1
    async def Tokenize(self, request, context):
        await asyncio.sleep(0.002)
        if request.text == "busy":
            ctypes.PyDLL(None).usleep(3_000_000)
        return lm.TokenizeResponse(token_ids=[int(sys.argv[1]), self.num_running])

async def main():
    async with serve_on_free_port((add_LanguageModelServicer_to_server, Replica())) as address:
        print(address, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


class Process:
    def __init__(self, process: asyncio.subprocess.Process, replica: Replica) -> None:
        self.replica = replica
        self._process = process

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    async def end(self) -> None:
        self._process.kill()
        await self._process.wait()


@asynccontextmanager
async def replica_process(number: int) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _REPLICA, str(number), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    address = (await process.stdout.readline()).decode().strip()
    running = Process(process, predictor(f"r{number}", address))
    try:
        yield running
    finally:
        await running.end()


@asynccontextmanager
async def pool_over_processes(
    count: int, liveness_timeout_s: float = LIVENESS_TIMEOUT_S
) -> AsyncIterator[tuple[EndpointPool, list[Process]]]:
    async with AsyncExitStack() as stack:
        processes = list(
            await asyncio.gather(*(stack.enter_async_context(replica_process(number)) for number in range(count)))
        )
        view: MeshView = view_of(*(process.replica for process in processes))
        pool = EndpointPool(
            lambda: view,
            rng=random.Random(3),
            open_channel=partial(open_multiplexed, liveness_timeout_s=liveness_timeout_s),
        )
        stack.push_async_callback(pool.close)
        yield pool, processes


async def ask(channel: Channel) -> tuple[int, int]:
    answer = await LanguageModelStub(channel).Tokenize(lm.TokenizeRequest(text="a"), timeout=30)
    number, num_running = answer.token_ids
    return number, num_running


def generate(channel: Channel) -> AsyncIterator[lm.GenerateResponse]:
    responses: AsyncIterator[lm.GenerateResponse] = LanguageModelStub(channel).Generate(
        lm.GenerateRequest(text="a"), timeout=60
    )
    return responses


class Stream:
    """Reads a stream until it ends. first: who answers it."""

    def __init__(self, pool: EndpointPool) -> None:
        self.first: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(self._read(pool))

    async def _read(self, pool: EndpointPool) -> None:
        async with aclosing(pool.stream(PREDICTOR, "iris", generate)) as responses:
            async for response in responses:
                if not self.first.done():
                    self.first.set_result(response.text)


async def test_freeze_of_one_of_two_fails_its_streams_and_no_unary_call() -> None:
    async with pool_over_processes(2) as (pool, (frozen, _)):
        streams = [Stream(pool) for _ in range(8)]
        numbers = await asyncio.gather(*(stream.first for stream in streams))
        of_frozen = [stream for stream, number in zip(streams, numbers, strict=True) if number == "0"]
        of_other = [stream for stream in streams if stream not in of_frozen]
        unary = [asyncio.create_task(pool.unary(PREDICTOR, "iris", ask)) for _ in range(20)]

        frozen.freeze()
        ends = await asyncio.gather(*(stream.task for stream in of_frozen), return_exceptions=True)
        unary += [asyncio.create_task(pool.unary(PREDICTOR, "iris", ask)) for _ in range(20)]
        answers = await asyncio.gather(*unary)

        assert len(of_frozen) in range(1, 8)
        assert all(isinstance(end, Unavailable) and "no sign of life for 1.5 s" in end.message for end in ends)
        assert {number for number, _ in answers[20:]} == {1}
        assert not any(stream.task.done() for stream in of_other)

        frozen.thaw()
        async with asyncio.timeout(30):
            answer = (1, 0)
            while answer != (0, 0):  # who answers, and that nothing of before runs there any more
                answer = await pool.unary(PREDICTOR, "iris", ask)
        for stream in of_other:
            stream.task.cancel()
        await asyncio.gather(*(stream.task for stream in of_other), return_exceptions=True)


async def test_the_only_replica_frozen_fails_calls_in_time_and_answers_when_it_is_back() -> None:
    async with pool_over_processes(1) as (pool, (frozen,)):
        await pool.unary(PREDICTOR, "iris", ask)
        frozen.freeze()

        for _ in range(2):
            with pytest.raises(Unavailable, match="no sign of life"):
                await pool.unary(PREDICTOR, "iris", ask)

        frozen.thaw()
        assert await pool.unary(PREDICTOR, "iris", ask) == (0, 0)


async def test_a_replica_whose_python_is_held_up_is_busy_and_not_frozen() -> None:
    async def ask_busy(channel: Channel) -> tuple[int, int]:
        answer = await LanguageModelStub(channel).Tokenize(lm.TokenizeRequest(text="busy"), timeout=30)
        number, num_running = answer.token_ids
        return number, num_running

    async with pool_over_processes(1, liveness_timeout_s=2.0) as (pool, _):
        assert await pool.unary(PREDICTOR, "iris", ask) == (0, 0)
        assert await pool.unary(PREDICTOR, "iris", ask_busy) == (0, 0)

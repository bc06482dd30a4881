"""A replica that is not what it was: another model at its address, or an end in the middle of a call."""

from __future__ import annotations

import asyncio
import sys

from mesh.errors import ModelNotFound
from mesh.testing import serve_on_free_port
from mesh.v1.language_model_pb2_grpc import add_LanguageModelServicer_to_server
from tests.mesh.faults.raw_peer import http2, message, raw_peer, status
from tests.mesh.faults.rig import Replica, beside

# Takes a call, and dies before it has said anything.
_DYING = """
import asyncio, os, signal
from mesh.testing import serve_on_free_port
from mesh.v1.language_model_pb2_grpc import LanguageModelServicer, add_LanguageModelServicer_to_server

class Dying(LanguageModelServicer):
    async def Tokenize(self, request, context):
        os.kill(os.getpid(), signal.SIGKILL)
    async def Generate(self, request, context):
        os.kill(os.getpid(), signal.SIGKILL)
        yield

async def main():
    async with serve_on_free_port((add_LanguageModelServicer_to_server, Dying())) as address:
        print(address, flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_one_that_came_back_with_another_model_is_asked_no_more() -> None:
    changed = Replica(ModelNotFound("model 'iris' is not deployed; deployed: wine", field="model_name"))
    async with serve_on_free_port((add_LanguageModelServicer_to_server, changed)) as address, beside(address) as both:
        await both.all_are_answered()

        assert both.healthy.num_calls == 60
        assert both.count("ejections") >= 1
        # Six at a time may meet it before the first of them is answered; then it is tried once a second and less.
        assert 1 <= changed.num_calls <= 12


async def test_one_that_dies_at_work_before_its_first_word_costs_no_call() -> None:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _DYING, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        address = (await process.stdout.readline()).decode().strip()
        async with beside(address) as both, asyncio.timeout(30):
            streams = await asyncio.gather(*(both.stream("x") for _ in range(8)))
            assert streams == [["x-0", "x-1", "x-2"]] * 8
            await both.all_are_answered()

            assert await process.wait() < 0
            assert both.healthy.num_calls == 68
            assert both.count("ejections") >= 1
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_one_that_ends_its_exchange_early_with_ok_has_answered_nothing() -> None:
    half_closed = http2(lambda stream_id: [message(stream_id, b""), status(stream_id, 0)])
    async with raw_peer(half_closed) as address, beside(address) as both, asyncio.timeout(15):
        await both.all_are_answered()

        assert both.healthy.num_calls == 60

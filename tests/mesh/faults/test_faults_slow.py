"""A replica that takes ten times as long as the others: traffic moves away. Counted in turns, not in seconds."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from prometheus_client import CollectorRegistry

from mesh.testing import eventually, serve_on_free_port
from mesh.v1.language_model_pb2_grpc import add_LanguageModelServicer_to_server
from tests.mesh.faults.rig import Beside, InTurns
from tests.mesh.pool_rig import Source, pool_over, predictor

NUM_CLIENTS = 12
NUM_TURNS = 60


async def test_one_that_is_ten_times_as_slow_gets_a_fraction_of_the_calls() -> None:
    replicas = [InTurns(10), InTurns(1), InTurns(1)]
    async with AsyncExitStack() as stack:
        addresses = [
            await stack.enter_async_context(serve_on_free_port((add_LanguageModelServicer_to_server, replica)))
            for replica in replicas
        ]
        pool = await stack.enter_async_context(pool_over(Source(*(predictor(a, a) for a in addresses))))

        async def client() -> None:
            while True:
                await Beside(pool, replicas[0], CollectorRegistry()).unary("x")

        clients = [asyncio.create_task(client()) for _ in range(NUM_CLIENTS)]
        for number in range(1, NUM_TURNS + 1):
            await eventually(lambda: sum(replica.num_waiting for replica in replicas) == NUM_CLIENTS)
            for replica in replicas:
                replica.take_turn(number)
        for task in clients:
            task.cancel()
        await asyncio.gather(*clients, return_exceptions=True)

    slow, *quick = (replica.num_calls for replica in replicas)
    assert slow * 4 < min(quick)

"""A replica that lies about its load: it draws no more than its share, and keeping calls away costs nobody one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from prometheus_client import CollectorRegistry

from mesh.load_meter import LoadMeter
from mesh.load_report import LoadReport, encode_load_report
from mesh.testing import eventually, serve_on_free_port
from mesh.v1.language_model_pb2_grpc import add_LanguageModelServicer_to_server
from tests.mesh.faults.rig import Beside, InTurns
from tests.mesh.pool_rig import Source, pool_over, predictor, view_of

NUM_CLIENTS = 12
NUM_TURNS = 30


class Lying(LoadMeter):
    """Reports the same work, whatever there is."""

    def __init__(self, work: float) -> None:
        super().__init__()
        self._lie = encode_load_report(LoadReport(work=work))

    def encoded(self) -> bytes:
        return self._lie


class Honest(LoadMeter):
    """As every server's, but never of what was true a moment ago."""

    def encoded(self) -> bytes:
        return encode_load_report(self.report())


@asynccontextmanager
async def liar_among_three(work: float) -> AsyncIterator[tuple[Beside, Source, list[InTurns]]]:
    """The first of the replicas lies."""
    replicas = [InTurns(1) for _ in range(3)]
    async with AsyncExitStack() as stack:
        addresses = []
        for number, replica in enumerate(replicas):
            meter = Honest() if number else Lying(work)
            served = serve_on_free_port((add_LanguageModelServicer_to_server, replica), load=meter)
            addresses.append(await stack.enter_async_context(served))
        source = Source(*(predictor(f"r{number}", address) for number, address in enumerate(addresses)))
        pool = await stack.enter_async_context(pool_over(source))
        yield Beside(pool, replicas[0], CollectorRegistry()), source, replicas


async def keep_busy(all_of_them: Beside, replicas: list[InTurns]) -> list[int]:
    """How many calls each replica answered while as many as NUM_CLIENTS were always waiting."""

    async def client() -> None:
        while True:
            await all_of_them.unary("x")

    clients = [asyncio.create_task(client()) for _ in range(NUM_CLIENTS)]
    for number in range(NUM_TURNS):
        await eventually(lambda: sum(replica.num_waiting for replica in replicas) == NUM_CLIENTS)
        for replica in replicas:
            replica.take_turn(number)
    for task in clients:
        task.cancel()
    await asyncio.gather(*clients, return_exceptions=True)
    return [replica.num_calls for replica in replicas]


async def test_one_that_always_reports_nothing_gets_no_more_than_its_share() -> None:
    async with liar_among_three(0.0) as (all_of_them, _, replicas):
        liar, *others = await keep_busy(all_of_them, replicas)

    assert liar <= 1.5 * (sum(others) / 2)


async def test_one_that_always_reports_a_huge_load_is_left_alone_and_still_answers_when_it_is_needed() -> None:
    async with liar_among_three(1e9) as (all_of_them, source, replicas):
        liar, *others = await keep_busy(all_of_them, replicas)
        assert liar < min(others)

        source.view = view_of(source.view.replicas["r0"])
        asked = asyncio.create_task(all_of_them.unary("xx"))
        await eventually(lambda: replicas[0].num_waiting > 0)
        replicas[0].take_turn(0)
        assert await asked == [2]

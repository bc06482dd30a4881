"""A healthy replica beside a faulty one, and calls of every kind through a pool over both."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing, asynccontextmanager

from prometheus_client import CollectorRegistry

from mesh.pool import Channel, EndpointPool
from mesh.testing import serve_on_free_port
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.language_model_pb2_grpc import (
    LanguageModelServicer,
    LanguageModelStub,
    add_LanguageModelServicer_to_server,
)
from tests.mesh.pool_rig import PREDICTOR, Source, pool_over, predictor

NUM_MESSAGES = 3


class Replica(LanguageModelServicer):
    """Answers everything, and counts. error: what it says instead."""

    def __init__(self, error: Exception | None = None) -> None:
        self.num_calls = 0
        self.error = error

    async def Tokenize(self, request: lm.TokenizeRequest, _context: object) -> lm.TokenizeResponse:
        self.num_calls += 1
        if self.error is not None:
            raise self.error
        return lm.TokenizeResponse(token_ids=[len(request.text)])

    async def Generate(self, request: lm.GenerateRequest, _context: object) -> AsyncIterator[lm.GenerateResponse]:
        self.num_calls += 1
        if self.error is not None:
            raise self.error
        for number in range(NUM_MESSAGES):
            yield lm.GenerateResponse(text=f"{request.text}-{number}")


class InTurns(Replica):
    """Answers what waits when it is its turn: every `period` turns."""

    def __init__(self, period: int) -> None:
        super().__init__()
        self._period = period
        self._waiting: list[asyncio.Event] = []

    @property
    def num_waiting(self) -> int:
        return len(self._waiting)

    async def Tokenize(self, request: lm.TokenizeRequest, context: object) -> lm.TokenizeResponse:
        answered = asyncio.Event()
        self._waiting.append(answered)
        await answered.wait()
        return await super().Tokenize(request, context)

    def take_turn(self, number: int) -> None:
        if number % self._period == 0:
            for answered in self._waiting:
                answered.set()
            self._waiting.clear()


class Beside:
    """A pool over a faulty replica and a healthy one. healthy: counts what reached it."""

    def __init__(self, pool: EndpointPool, healthy: Replica, registry: CollectorRegistry) -> None:
        self.pool = pool
        self.healthy = healthy
        self._registry = registry

    async def unary(self, text: str, timeout_s: float = 20) -> list[int]:
        def call(channel: Channel) -> Awaitable[lm.TokenizeResponse]:
            return LanguageModelStub(channel).Tokenize(lm.TokenizeRequest(text=text), timeout=timeout_s)

        response = await self.pool.unary(PREDICTOR, "iris", call)
        return list(response.token_ids)

    async def stream(self, text: str) -> list[str]:
        def call(channel: Channel) -> AsyncIterator[lm.GenerateResponse]:
            return LanguageModelStub(channel).Generate(lm.GenerateRequest(text=text), timeout=20)

        async with aclosing(self.pool.stream(PREDICTOR, "iris", call)) as responses:
            return [response.text async for response in responses]

    async def all_are_answered(self, num_rounds: int = 10) -> None:
        """Calls side by side, and again and again; each gets what the healthy one says, and nothing else."""
        for number in range(num_rounds):
            text = "x" * (number + 1)
            answers = await asyncio.gather(*(self.unary(text) for _ in range(3)))
            assert answers == [[len(text)]] * 3
            streams = await asyncio.gather(*(self.stream(text) for _ in range(3)))
            assert streams == [[f"{text}-{index}" for index in range(NUM_MESSAGES)]] * 3

    def count(self, what: str, **labels: str) -> float:
        """A counter of the pool."""
        name = f"meshserve_next_hop_{what}_total"
        return self._registry.get_sample_value(name, {"service": "predictor", **labels}) or 0


@asynccontextmanager
async def beside(*faulty: str, **options: object) -> AsyncIterator[Beside]:
    """faulty: addresses."""
    healthy, registry = Replica(), CollectorRegistry()
    async with serve_on_free_port((add_LanguageModelServicer_to_server, healthy)) as address:
        source = Source(*(predictor(other, other) for other in faulty), predictor("healthy", address))
        async with pool_over(source, metrics_registry=registry, **options) as pool:
            yield Beside(pool, healthy, registry)

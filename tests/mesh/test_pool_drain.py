"""Replicas that drain and say so themselves: no registry is there, and the view names them all the time.

Their grace time is long: a server that ends within a test had nothing left to wait for.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from mesh import departure
from mesh.discovery import Discovery
from mesh.pool import Channel, EndpointPool
from mesh.resumable_stream import CannotContinue
from mesh.serve import MeshServer
from mesh.settings import ServiceSettings
from mesh.testing import eventually
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.language_model_pb2_grpc import (
    LanguageModelServicer,
    LanguageModelStub,
    add_LanguageModelServicer_to_server,
)
from tests.mesh.pool_rig import PREDICTOR, Source, free_port_address, pool_over, predictor

GRACE_S = 60.0
NUM_MESSAGES = 6


class Model(LanguageModelServicer):
    """Generate says its replica's number and counts on from the tokens that are given; messages 2 and 4 wait."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.gates = {2: asyncio.Event(), 4: asyncio.Event()}

    def go_on(self) -> None:
        for gate in self.gates.values():
            gate.set()

    async def Tokenize(self, request: lm.TokenizeRequest, _: Any) -> lm.TokenizeResponse:
        return lm.TokenizeResponse(token_ids=[self.number])

    async def Generate(self, request: lm.GenerateRequest, _: Any) -> AsyncIterator[lm.GenerateResponse]:
        for count in range(len(request.continue_from), NUM_MESSAGES):
            if count in self.gates:
                await self.gates[count].wait()
            yield lm.GenerateResponse(token_ids=[self.number, count])


class Replica:
    """A real server at an address that it keeps over its restarts. Once drained it serves on until `end()`."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.address = free_port_address()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        port = int(self.address.rpartition(":")[2])
        settings = ServiceSettings(grpc_port=port, metrics_port=0, drain_s=0.0, grace_s=GRACE_S)
        self.model = Model(self.number)
        self._may_end = may_end = asyncio.Event()
        self._server = MeshServer(settings, name=f"r{self.number}")
        self._server.add(add_LanguageModelServicer_to_server, self.model, "mesh.v1.LanguageModel")

        async def serve_on() -> None:
            await may_end.wait()

        self._server.on_drain(serve_on)  # in the place of drain_s
        await self._server.start()
        self._task = asyncio.create_task(self._server.serve_until_terminated())

    def drain(self) -> None:
        self._server.request_stop()

    async def end(self) -> None:
        """Wait until it has ended by itself."""
        self.drain()
        self._may_end.set()
        task, self._task = self._task, None
        if task is not None:
            async with asyncio.timeout(GRACE_S / 4):
                await task


@asynccontextmanager
async def replicas(count: int) -> AsyncIterator[list[Replica]]:
    made = [Replica(number) for number in range(count)]
    for replica in made:
        await replica.start()
    try:
        yield made
    finally:
        for replica in made:
            await replica.end()


def source_of(*made: Replica) -> Source:
    return Source(*(predictor(f"r{replica.number}", replica.address) for replica in made))


async def ask(pool: EndpointPool) -> int:
    """The number of who answers."""

    async def call(channel: Channel) -> int:
        return (await LanguageModelStub(channel).Tokenize(lm.TokenizeRequest(text="a"), timeout=20)).token_ids[0]

    return await pool.unary(PREDICTOR, "iris", call)


async def askers(pool: EndpointPool, num_calls: int = 20) -> set[int]:
    return set(await asyncio.gather(*(ask(pool) for _ in range(num_calls))))


class Counter:
    """The call of a stream that counts: knows what came, and asks for the rest. refuses: who cannot take it further."""

    def __init__(self, refuses: int) -> None:
        self.num_seen = 0
        self._refuses = refuses

    async def __call__(self, channel: Channel) -> AsyncGenerator[tuple[int, int], None]:
        request = lm.GenerateRequest(text="a", continue_from=[1] * self.num_seen)
        answers = LanguageModelStub(channel).Generate(request, timeout=60)
        try:
            async for answer in answers:
                if answer.token_ids[0] == self._refuses:
                    raise CannotContinue("it has another model")
                self.num_seen += 1
                number, count = answer.token_ids
                yield number, count
        finally:
            await answers.aclose()  # type: ignore[attr-defined]  # a generator, of a multiplexed channel


class Stream:
    """Reads one on until it ends. seen: who said which number."""

    def __init__(self, pool: EndpointPool, refuses: int = -1) -> None:
        self.seen: list[tuple[int, int]] = []
        self.task = asyncio.create_task(self._read(pool, Counter(refuses)))

    async def _read(self, pool: EndpointPool, counter: Counter) -> None:
        async for message in pool.resumable_stream(PREDICTOR, "iris", counter):
            self.seen.append(message)

    async def waits(self) -> int:
        """Who holds it, once it waits there."""
        await eventually(lambda: len(self.seen) == 2, 20)
        return self.seen[-1][0]


def num_resumed(metrics: CollectorRegistry, reason: str) -> float:
    labels = {"service": "predictor", "reason": reason}
    return metrics.get_sample_value("meshserve_stream_resumptions_total", labels) or 0.0


def is_draining(pool: EndpointPool, number: int) -> bool:
    return f"r{number}" in {endpoint.id for endpoint in pool._endpoints.draining}


async def test_new_calls_go_elsewhere_as_soon_as_a_drain_begins() -> None:
    async with replicas(2) as [first, second], pool_over(source_of(first, second), policy="round_robin") as pool:
        assert await askers(pool) == {0, 1}

        first.drain()
        await eventually(lambda: is_draining(pool, 0))

        assert await askers(pool) == {1}


async def test_a_caller_that_comes_later_is_told_with_its_first_answer() -> None:
    async with replicas(2) as [first, second], pool_over(source_of(first, second), policy="round_robin") as others:
        assert await askers(others) == {0, 1}
        first.drain()
        await eventually(lambda: is_draining(others, 0))

        async with pool_over(source_of(first, second), policy="round_robin") as pool:
            assert {await ask(pool) for _ in range(3)} == {0, 1}
            await eventually(lambda: is_draining(pool, 0))
            assert await askers(pool) == {1}


async def test_streams_move_and_the_server_ends_long_before_its_grace_time() -> None:
    metrics = CollectorRegistry()
    async with replicas(2) as [first, second]:
        source = source_of(first)
        async with pool_over(source, metrics_registry=metrics) as pool:
            streams = [Stream(pool) for _ in range(3)]
            assert [await stream.waits() for stream in streams] == [0] * 3
            source.view = source_of(first, second).view
            second.model.go_on()

            await first.end()
            await asyncio.gather(*(stream.task for stream in streams))

    assert all(stream.seen == [(0, 0), (0, 1), *((1, count) for count in range(2, 6))] for stream in streams)
    assert num_resumed(metrics, "left") == 3


async def test_a_lone_replica_answers_and_keeps_its_streams_until_it_ends() -> None:
    async with replicas(1) as [only], pool_over(source_of(only)) as pool:
        stream = Stream(pool)
        await stream.waits()
        only.drain()
        await eventually(lambda: is_draining(pool, 0))

        assert await askers(pool) == {0}
        asyncio.get_running_loop().call_later(departure.GRACE_S + 0.1, only.model.go_on)
        await stream.task

    assert stream.seen == [(0, count) for count in range(NUM_MESSAGES)]


async def test_when_all_drain_each_stream_stays_where_it_is() -> None:
    async with replicas(2) as [first, second], pool_over(source_of(first, second), policy="round_robin") as pool:
        assert await askers(pool) == {0, 1}
        stream = Stream(pool)
        holder = await stream.waits()
        for replica in (first, second):
            replica.drain()
        await eventually(lambda: is_draining(pool, 0) and is_draining(pool, 1))

        assert await askers(pool) == {0, 1}
        for replica in (first, second):
            asyncio.get_running_loop().call_later(departure.GRACE_S + 0.1, replica.model.go_on)
        await stream.task

    assert stream.seen == [(holder, count) for count in range(NUM_MESSAGES)]


async def test_one_that_drains_is_asked_rather_than_one_that_is_dead() -> None:
    async with replicas(2) as [draining, dead], pool_over(source_of(draining, dead), policy="round_robin") as pool:
        await dead.end()
        stream = Stream(pool)
        assert await stream.waits() == 0
        assert await askers(pool) == {0}  # and the other is known to be dead
        draining.drain()
        await eventually(lambda: is_draining(pool, 0))

        assert await askers(pool) == {0}
        draining.model.go_on()
        await stream.task

    assert stream.seen == [(0, count) for count in range(NUM_MESSAGES)]


async def test_a_stream_that_the_other_one_cannot_take_comes_back_and_ends_where_it_began() -> None:
    metrics = CollectorRegistry()
    async with replicas(2) as [draining, other]:
        source = source_of(draining)
        async with pool_over(source, metrics_registry=metrics) as pool:
            stream = Stream(pool, refuses=1)
            await stream.waits()
            source.view = source_of(draining, other).view
            other.model.go_on()
            draining.drain()

            await eventually(lambda: num_resumed(metrics, "other_model") == 1, 20)
            draining.model.gates[2].set()
            asyncio.get_running_loop().call_later(departure.GRACE_S + 0.3, draining.model.go_on)
            await stream.task

    assert stream.seen == [(0, count) for count in range(NUM_MESSAGES)]
    assert num_resumed(metrics, "left") == num_resumed(metrics, "other_model") == 1  # and not back and forth


async def test_replicas_of_a_file_restart_one_after_the_other_and_a_stream_outlives_both(tmp_path: Path) -> None:
    async with replicas(2) as [first, second]:
        path = tmp_path / "endpoints.yaml"
        path.write_text(
            f"endpoints: {{predictor: ['{first.address}', '{second.address}']}}\n"
            'deployments: [{name: iris, predictor: {model_format: gguf, storage_uri: "file:///m"}}]\n'
        )
        discovery = Discovery(registry=None, endpoints=path, state_dir=tmp_path)
        await discovery.start()
        pool = EndpointPool(lambda: discovery.view, policy="round_robin", rng=random.Random(7))
        assert await askers(pool) == {0, 1}
        stream = Stream(pool)
        holder = await stream.waits()

        restarting = [first, second] if holder == 0 else [second, first]
        for replica in restarting:
            await replica.end()
            await replica.start()
            await until_used(pool, replica.number)
        restarting[0].model.go_on()
        await stream.task
        await pool.close()
        await discovery.close()

    assert [count for _, count in stream.seen] == list(range(NUM_MESSAGES))
    assert {number for number, count in stream.seen if count >= 2} == {restarting[0].number}


async def until_used(pool: EndpointPool, number: int) -> None:
    async with asyncio.timeout(30):
        while await ask(pool) != number:
            pass

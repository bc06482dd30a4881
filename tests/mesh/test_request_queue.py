"""Requests that wait for a replica, over real servers: who goes first, who is refused, and who is held."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from mesh import context
from mesh.balancing import Request
from mesh.call_limits import CallLimits
from mesh.context import RequestContext
from mesh.endpoints import Target
from mesh.errors import DeadlineExceeded, ModelNotReady, Overloaded, Unavailable
from mesh.pool import EndpointPool
from mesh.testing import eventually
from tests.mesh.pool_rig import (
    PREDICTOR,
    Answering,
    Source,
    free_port_address,
    live,
    pool_over,
    predictor,
    serving,
    stream,
    view_of,
)

ONE_AT_A_TIME = CallLimits(max_in_flight_per_replica=1, max_queued=8, queue_timeout_s=20)


class Turns(Answering):
    """Answers one call whenever it is let, and notes for whom."""

    def __init__(self) -> None:
        super().__init__()
        self.held = asyncio.Event()
        self.tenants: list[str] = []
        self.most_at_a_time = 0
        self._running = 0

    async def ServerLive(self, request: Any, servicer_context: object) -> Any:
        current = context.current()
        assert current is not None
        self.tenants.append(current.tenant)
        self._running += 1
        self.most_at_a_time = max(self.most_at_a_time, self._running)
        try:
            return await super().ServerLive(request, servicer_context)
        finally:
            self._running -= 1


@asynccontextmanager
async def one_busy_replica(**options: Any) -> AsyncIterator[tuple[Turns, EndpointPool, asyncio.Task[Any]]]:
    """A replica that takes one call at a time, and has it."""
    servicer = Turns()
    options.setdefault("limits", ONE_AT_A_TIME)
    async with serving(servicer) as [address], pool_over(Source(predictor("a", address)), **options) as pool:
        first = asyncio.create_task(pool.unary(PREDICTOR, "iris", live))
        await eventually(lambda: servicer.calls == 1)
        yield servicer, pool, first


def ask(
    pool: EndpointPool, *, tenant: str = "", priority: int = 0, request: Request | None = None
) -> asyncio.Task[Any]:
    """A call that has begun to wait, if it must, when this task next gives way."""

    async def call() -> Any:
        with context.bind(RequestContext("r", tenant=tenant, priority=priority)):
            return await pool.unary(PREDICTOR, "iris", live, request=request or Request())

    return asyncio.create_task(call())


def in_flight(pool: EndpointPool) -> int:
    return sum(endpoint.in_flight for endpoint in pool._endpoints.serving(Target(PREDICTOR, "iris")))


async def test_no_replica_has_more_calls_than_its_limit_and_all_are_answered() -> None:
    servicers = Turns(), Turns()
    limits = CallLimits(max_in_flight_per_replica=3, max_queued=100)
    async with serving(*servicers) as addresses:
        async with pool_over(Source(*(predictor(a, a) for a in addresses)), limits=limits) as pool:
            calls = [ask(pool) for _ in range(40)]
            await eventually(lambda: sum(servicer.calls for servicer in servicers) == 6)
            for servicer in servicers:
                servicer.held.set()
            await asyncio.gather(*calls)

    assert [servicer.most_at_a_time for servicer in servicers] == [3, 3]
    assert sum(servicer.calls for servicer in servicers) == 40


async def test_streams_count_and_wait_as_well() -> None:
    async with one_busy_replica() as (servicer, pool, first):

        async def read() -> list[str]:
            return [message.infer_response.id async for message in pool.stream(PREDICTOR, "iris", stream)]

        reading = asyncio.create_task(read())
        await asyncio.sleep(0)
        assert in_flight(pool) == 1
        servicer.held.set()

        assert await reading == ["0", "1", "2"]
        await first


async def test_tenants_take_turns_and_higher_priorities_go_first() -> None:
    async with one_busy_replica() as (servicer, pool, first):
        many = [ask(pool, tenant="many") for _ in range(4)]
        await asyncio.sleep(0)
        few = [ask(pool, tenant="few"), ask(pool, tenant="urgent", priority=5)]
        few.append(ask(pool, tenant="message", request=Request(priority=7)))
        await asyncio.sleep(0)
        servicer.held.set()
        await asyncio.gather(first, *many, *few)

    assert servicer.tenants[1:3] == ["message", "urgent"]
    assert servicer.tenants.index("few") <= 4


async def test_a_full_queue_refuses_at_once_and_says_when_to_come_back() -> None:
    metrics = CollectorRegistry()
    async with one_busy_replica(metrics_registry=metrics) as (servicer, pool, first):
        waiting = [ask(pool) for _ in range(8)]
        await asyncio.sleep(0)
        depth = metrics.get_sample_value("meshserve_next_hop_queue_depth", {"service": "predictor"})
        with pytest.raises(Overloaded, match="8 requests wait for the predictor of 'iris' already") as refused:
            await ask(pool)
        servicer.held.set()
        await asyncio.gather(first, *waiting)

    assert depth == 8
    assert refused.value.retry_after_s == 1.0
    for name, value in (("queue_depth", 0), ("queue_refused_total", 1), ("queue_wait_seconds_count", 8)):
        assert metrics.get_sample_value(f"meshserve_next_hop_{name}", {"service": "predictor"}) == value


async def test_a_tenant_cannot_fill_the_queue_against_another() -> None:
    async with one_busy_replica() as (servicer, pool, first):
        many = [ask(pool, tenant="many") for _ in range(8)]
        await asyncio.sleep(0)
        few = ask(pool, tenant="few")
        await asyncio.sleep(0)
        servicer.held.set()

        assert (await few).live
        ends = await asyncio.gather(*many, return_exceptions=True)
        await first
    assert [isinstance(end, Overloaded) for end in ends] == [False] * 7 + [True]


async def test_a_request_that_waits_too_long_is_told_so() -> None:
    limits = CallLimits(max_in_flight_per_replica=1, queue_timeout_s=0.05)
    async with one_busy_replica(limits=limits) as (servicer, pool, first):
        with pytest.raises(Overloaded, match=r"all replicas of 'iris' are busy; the request waited 0\.\d s"):
            await ask(pool)
        servicer.held.set()
        await first


async def test_the_time_in_the_queue_is_of_the_requests_own() -> None:
    async with one_busy_replica() as (servicer, pool, first):
        loop = asyncio.get_running_loop()
        with context.bind(RequestContext("r", deadline=loop.time() + 0.05)):
            with pytest.raises(DeadlineExceeded, match="ran out while it waited for a replica of 'iris'"):
                await pool.unary(PREDICTOR, "iris", live)
        servicer.held.set()
        await first


async def test_a_caller_that_gives_up_leaves_its_place_to_the_next() -> None:
    async with one_busy_replica() as (servicer, pool, first):
        impatient, patient = ask(pool, tenant="impatient"), ask(pool, tenant="patient")
        await asyncio.sleep(0)
        impatient.cancel()
        await asyncio.gather(impatient, return_exceptions=True)
        servicer.held.set()
        await asyncio.gather(first, patient)

        assert servicer.tenants[1:] == ["patient"]
        assert in_flight(pool) == 0


async def test_a_caller_that_gives_up_in_the_moment_of_its_turn_leaves_the_replica_to_the_next() -> None:
    async with serving(Answering()) as [address]:
        async with pool_over(Source(predictor("a", address)), limits=ONE_AT_A_TIME) as pool:
            [endpoint] = pool._endpoints.serving(Target(PREDICTOR, "iris"))
            with pool._endpoints.dispatched(endpoint, 1.0):
                impatient, patient = ask(pool), ask(pool)
                await asyncio.sleep(0)
            assert endpoint.in_flight == 1  # its turn has come, and it has not run since
            impatient.cancel()

            assert (await patient).live
            assert impatient.cancelled()
            assert endpoint.in_flight == 0


async def test_requests_for_a_model_that_loads_are_held_and_go_on_with_the_view() -> None:
    servicer = Answering()
    async with serving(servicer) as [address]:
        source = Source(predictor("a", address, ready=False))
        async with pool_over(source, limits=CallLimits(hold_s=20)) as pool:
            calls = [ask(pool) for _ in range(3)]
            reading = asyncio.ensure_future(anext(pool.stream(PREDICTOR, "iris", stream)))
            await asyncio.sleep(0)
            source.view = view_of(predictor("a", address))
            pool.notice(source.view)

            assert all(answer.live for answer in await asyncio.gather(*calls))
            assert (await reading).infer_response.id == "0"


async def test_held_requests_find_a_view_that_nobody_announced() -> None:
    async with serving(Answering()) as [address]:
        source = Source()
        async with pool_over(source, limits=CallLimits(hold_s=20)) as pool:
            call = ask(pool)
            await asyncio.sleep(0)
            source.view = view_of(predictor("a", address))
            assert (await call).live


async def test_holding_ends_with_what_would_have_been_said_at_once() -> None:
    limits = CallLimits(hold_s=0.05)
    async with pool_over(Source(predictor("a", "127.0.0.1:1", ready=False)), limits=limits) as pool:
        with pytest.raises(ModelNotReady, match="not ready yet at any predictor") as failure:
            await ask(pool)
    assert failure.value.retry_after_s == 1.0

    async with pool_over(Source(predictor("a", free_port_address())), limits=limits) as pool:
        with pytest.raises(Unavailable, match="cannot be reached") as failure:
            await ask(pool)
    assert failure.value.retry_after_s == 1.0


async def test_what_the_mesh_does_not_know_and_what_has_a_fallback_is_not_held() -> None:
    source = Source()
    async with pool_over(source, limits=CallLimits(hold_s=20)) as pool:
        with pytest.raises(Unavailable, match="no ready predictor for 'stranger'"):
            await pool.unary(PREDICTOR, "stranger", live)
        source.view.deployments["iris"].traffic.fallback = "spare"
        with pytest.raises(Unavailable, match="no ready predictor for 'iris'"):
            await pool.unary(PREDICTOR, "iris", live)


async def test_requests_are_held_while_the_only_replica_restarts() -> None:
    servicer = Answering()
    source = Source(predictor("old", free_port_address()))
    async with pool_over(source, limits=CallLimits(hold_s=20)) as pool:
        calls = [ask(pool) for _ in range(5)]
        [old] = pool._endpoints.serving(Target(PREDICTOR, "iris"))
        await eventually(lambda: old.outlier.ejected_until > 0)
        async with serving(servicer) as [address]:
            source.view = view_of(predictor("new", address))
            pool.notice(source.view)

            assert all(answer.live for answer in await asyncio.gather(*calls))


async def test_a_replica_that_is_dead_is_not_asked_by_all_who_wait_for_it() -> None:
    metrics = CollectorRegistry()
    clock = [100.0]
    source = Source(predictor("dead", free_port_address()))
    options: dict[str, Any] = {"metrics_registry": metrics, "now": lambda: clock[0]}
    labels = {"service": "predictor", "outcome": "unreachable"}

    def num_tried() -> float:
        return metrics.get_sample_value("meshserve_next_hop_attempts_total", labels) or 0

    async with pool_over(source, limits=CallLimits(hold_s=60), **options) as pool:
        first = ask(pool)
        await eventually(lambda: num_tried() == 1)
        waiting = [ask(pool) for _ in range(20)]
        clock[0] += 1.5
        await eventually(lambda: num_tried() == 2)
        # The one that tried has doubled the time for all: nobody else does before it is over.
        depth = "meshserve_next_hop_queue_depth"
        await eventually(lambda: metrics.get_sample_value(depth, {"service": "predictor"}) == 21)
        assert num_tried() == 2
        for call in (first, *waiting):
            call.cancel()
        await asyncio.gather(first, *waiting, return_exceptions=True)


async def test_who_waited_for_a_dead_replica_is_told_that_nobody_can_be_reached() -> None:
    source = Source(predictor("dead", free_port_address()))
    async with pool_over(source, limits=CallLimits(hold_s=0.3)) as pool:
        first = ask(pool)
        [dead] = pool._endpoints.serving(Target(PREDICTOR, "iris"))
        await eventually(lambda: dead.outlier.ejected_until > 0)
        with pytest.raises(Unavailable, match="no predictor for 'iris' can be reached|cannot be reached"):
            await ask(pool)
        with pytest.raises(Unavailable, match="cannot be reached"):
            await first


async def test_closing_the_pool_ends_those_who_wait() -> None:
    async with pool_over(Source(), limits=CallLimits(hold_s=20)) as pool:
        call = ask(pool)
        await asyncio.sleep(0)
    with pytest.raises(asyncio.CancelledError):
        await call

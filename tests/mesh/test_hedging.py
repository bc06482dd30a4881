"""Of two attempts the first good answer is taken; the other one has ended by then."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client import CollectorRegistry

from mesh.call_limits import CallLimits
from mesh.endpoints import Target
from mesh.errors import InvalidInput, Unavailable
from mesh.hedging import first_good
from mesh.retry import RetryBudget
from mesh.testing import eventually
from tests.mesh.pool_rig import PREDICTOR, Answering, Source, live, pool_over, predictor, serving

SOON = CallLimits(hedge_after_s=0.02)


class Attempt:
    """An attempt that ends as the test says."""

    def __init__(self, *, answer: str | None = None, error: Exception | None = None) -> None:
        self.may_end = asyncio.Event()
        self.has_begun = self.was_cancelled = False
        self.answer, self.error = answer, error
        if answer or error:
            self.may_end.set()

    async def run(self) -> str:
        self.has_begun = True
        try:
            await self.may_end.wait()
        except asyncio.CancelledError:
            self.was_cancelled = True
            raise
        if self.error is not None:
            raise self.error
        return self.answer or ""

    def begin(self) -> asyncio.Task[str]:
        return asyncio.create_task(self.run())


def never() -> asyncio.Task[str]:
    raise AssertionError("no second attempt was called for")


async def test_a_quick_answer_makes_no_second_attempt() -> None:
    assert await first_good(Attempt(answer="first").begin(), 5, never) == "first"
    with pytest.raises(Unavailable):
        await first_good(Attempt(error=Unavailable("gone")).begin(), 5, never)


async def test_the_first_good_answer_wins_and_the_other_is_cancelled() -> None:
    slow, quick = Attempt(), Attempt(answer="second")

    assert await first_good(slow.begin(), 0.001, quick.begin) == "second"
    assert slow.was_cancelled


async def test_a_failure_waits_for_the_other_answer() -> None:
    slow, failing = Attempt(), Attempt(error=Unavailable("gone"))
    asking = asyncio.create_task(first_good(slow.begin(), 0.001, failing.begin))
    await eventually(lambda: failing.has_begun)
    await asyncio.sleep(0)
    assert not asking.done()
    slow.answer = "first"
    slow.may_end.set()

    assert await asking == "first"


async def test_a_good_answer_beats_a_failure_of_the_same_moment() -> None:
    one, other = Attempt(), Attempt()
    one.error, other.answer = Unavailable("gone"), "good"
    asking = asyncio.create_task(first_good(one.begin(), 0.001, other.begin))
    await eventually(lambda: other.has_begun)
    one.may_end.set()
    other.may_end.set()

    assert await asking == "good"


async def test_no_second_to_be_had_leaves_the_first() -> None:
    slow, asked = Attempt(), asyncio.Event()
    asking = asyncio.create_task(first_good(slow.begin(), 0.001, asked.set))
    await asked.wait()
    slow.answer = "first"
    slow.may_end.set()

    assert await asking == "first"


async def test_a_caller_that_gives_up_ends_both() -> None:
    one, other = Attempt(), Attempt()
    asking = asyncio.create_task(first_good(one.begin(), 0.001, other.begin))
    await eventually(lambda: other.has_begun)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking

    assert one.was_cancelled
    assert other.was_cancelled


async def test_a_slow_replica_s_call_is_answered_by_another_and_cancelled_there() -> None:
    slow, quick = Answering(), Answering()
    slow.held = asyncio.Event()
    metrics = CollectorRegistry()
    async with serving(slow, quick) as [first, second]:
        source = Source(predictor("slow", first), predictor("quick", second))
        async with pool_over(source, limits=SOON, metrics_registry=metrics) as pool:
            for _ in range(10):
                assert (await pool.unary(PREDICTOR, "iris", live)).live
            endpoints = pool._endpoints.serving(Target(PREDICTOR, "iris"))
            assert [endpoint.in_flight for endpoint in endpoints] == [0, 0]

    hedges = metrics.get_sample_value("meshserve_next_hop_hedges_total", {"service": "predictor"})
    assert hedges == slow.calls > 0
    assert quick.calls == 10


async def test_hedges_spend_from_the_budget_of_retries() -> None:
    servicers = Answering(), Answering()
    for servicer in servicers:
        servicer.held = asyncio.Event()
    async with serving(*servicers) as addresses:
        budget = RetryBudget(ratio=0, floor_per_s=0, burst=2)
        source = Source(*(predictor(a, a) for a in addresses))
        async with pool_over(source, limits=SOON, budget=budget) as pool:
            calls = [asyncio.create_task(pool.unary(PREDICTOR, "iris", live)) for _ in range(6)]
            await eventually(lambda: sum(servicer.calls for servicer in servicers) == 8)
            for servicer in servicers:
                assert servicer.held is not None
                servicer.held.set()
            await asyncio.gather(*calls)

    assert sum(servicer.calls for servicer in servicers) == 8


async def test_with_one_replica_a_hedged_call_ends_as_any_other() -> None:
    servicer = Answering()
    servicer.error = InvalidInput("shape is wrong")
    async with serving(servicer) as [address], pool_over(Source(predictor("a", address)), limits=SOON) as pool:
        with pytest.raises(InvalidInput, match="shape is wrong"):
            await pool.unary(PREDICTOR, "iris", live)
        servicer.error, servicer.held = None, asyncio.Event()
        call = asyncio.create_task(pool.unary(PREDICTOR, "iris", live))
        await eventually(lambda: servicer.calls == 2)
        servicer.held.set()

        assert (await call).live
    assert servicer.calls == 2

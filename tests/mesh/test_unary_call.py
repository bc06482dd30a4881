"""Calls over real servers that fail, and what the caller is told."""

from __future__ import annotations

import asyncio

import pytest

from mesh.endpoints import Target
from mesh.errors import InvalidInput, ModelNotFound, ModelNotReady, Overloaded, Unavailable
from mesh.retry import RetryBudget
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
)


async def test_single_unreachable_replica_fails_fast_with_unavailable() -> None:
    async with pool_over(Source(predictor("dead", free_port_address()))) as pool:
        async with asyncio.timeout(5):
            with pytest.raises(Unavailable, match="the predictor for 'iris' cannot be reached"):
                await pool.unary(PREDICTOR, "iris", live)


async def test_answer_that_blames_the_request_is_not_retried() -> None:
    servicers = Answering(), Answering()
    for servicer in servicers:
        servicer.error = InvalidInput("shape is wrong")
    async with serving(*servicers) as addresses:
        async with pool_over(Source(*(predictor(a, a) for a in addresses))) as pool:
            with pytest.raises(InvalidInput, match="shape is wrong"):
                await pool.unary(PREDICTOR, "iris", live)

    assert sum(servicer.calls for servicer in servicers) == 1


async def test_unavailable_answer_is_retried_but_does_not_eject() -> None:
    loading, ready = Answering(), Answering()
    loading.error = ModelNotReady("model 'iris' is loading")
    async with serving(loading, ready) as [first, second]:
        source = Source(predictor("loading", first), predictor("ready", second))
        async with pool_over(source) as pool:
            for _ in range(40):
                await pool.unary(PREDICTOR, "iris", live)

    assert loading.calls > 5
    assert ready.calls == 40


async def test_replica_that_does_not_have_the_model_is_the_wrong_one_and_kept_out() -> None:
    wrong, right = Answering(), Answering()
    wrong.error = ModelNotFound("model 'iris' is not deployed", field="model_name")
    async with serving(wrong, right) as [first, second]:
        async with pool_over(Source(predictor("wrong", first), predictor("right", second))) as pool:
            for _ in range(20):
                assert (await pool.unary(PREDICTOR, "iris", live)).live

    assert wrong.calls == 1
    assert right.calls == 20


async def test_a_model_that_no_replica_has_is_not_found_once_they_were_asked() -> None:
    servicers = Answering(), Answering()
    for servicer in servicers:
        servicer.error = ModelNotFound("model 'iris' is not deployed", field="model_name")
    async with serving(*servicers) as addresses:
        async with pool_over(Source(*(predictor(a, a) for a in addresses))) as pool:
            with pytest.raises(ModelNotFound, match="not deployed"):
                await pool.unary(PREDICTOR, "iris", live)

    assert [servicer.calls for servicer in servicers] == [1, 1]


async def test_full_replica_is_passed_over_for_another() -> None:
    full, free = Answering(), Answering()
    full.error = Overloaded("the queue is full", retry_after_s=7)
    async with serving(full, free) as [first, second]:
        source = Source(predictor("full", first), predictor("free", second))
        async with pool_over(source) as pool:
            for _ in range(20):
                assert (await pool.unary(PREDICTOR, "iris", live)).live
            free.error = full.error
            with pytest.raises(Overloaded, match="the queue is full") as refused:
                await pool.unary(PREDICTOR, "iris", live)

    assert refused.value.retry_after_s == 7


async def test_replicas_that_refuse_cost_no_budget_and_are_no_attempts() -> None:
    alive = Answering()
    async with serving(alive) as [address]:
        dead = [predictor(f"dead-{number}", free_port_address()) for number in range(6)]
        budget = RetryBudget(ratio=0, floor_per_s=0, burst=0)
        async with pool_over(Source(*dead, predictor("alive", address)), budget=budget) as pool:
            for _ in range(10):
                assert (await pool.unary(PREDICTOR, "iris", live)).live

    assert alive.calls == 10


async def test_without_budget_the_failure_comes_out() -> None:
    servicers = Answering(), Answering()
    for servicer in servicers:
        servicer.error = ModelNotReady("model 'iris' is loading")
    async with serving(*servicers) as addresses:
        budget = RetryBudget(ratio=0, floor_per_s=0, burst=0)
        async with pool_over(Source(*(predictor(a, a) for a in addresses)), budget=budget) as pool:
            with pytest.raises(Unavailable, match="is loading"):
                await pool.unary(PREDICTOR, "iris", live)

    assert sum(servicer.calls for servicer in servicers) == 1


async def test_cancelled_call_is_released() -> None:
    servicer = Answering()
    servicer.held = asyncio.Event()
    async with serving(servicer) as [address], pool_over(Source(predictor("a", address))) as pool:
        call = asyncio.create_task(pool.unary(PREDICTOR, "iris", live))
        await eventually(lambda: servicer.calls == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

        [endpoint] = pool._endpoints.serving(Target(PREDICTOR, "iris"))
        assert endpoint.in_flight == 0

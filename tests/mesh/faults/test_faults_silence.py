"""A replica that cannot be reached, and one that can and says nothing."""

from __future__ import annotations

import asyncio

import pytest

from mesh.call_limits import CallLimits
from mesh.errors import DeadlineExceeded
from tests.mesh.faults.raw_peer import http2, raw_peer
from tests.mesh.faults.rig import beside
from tests.mesh.pool_rig import free_port_address


async def closing(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Takes a connection and ends it."""


async def mute(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    """Takes a connection and whatever comes, and sends nothing, not even the greeting of HTTP/2."""
    while await reader.read(1 << 16):
        pass


async def test_one_that_refuses_costs_no_call_and_no_budget() -> None:
    async with beside(free_port_address()) as both, asyncio.timeout(15):
        await both.all_are_answered()

        assert both.healthy.num_calls == 60
        assert both.count("ejections") == 1


async def test_one_that_hangs_up_costs_no_call() -> None:
    async with raw_peer(closing) as address, beside(address) as both, asyncio.timeout(15):
        await both.all_are_answered()

        assert both.healthy.num_calls == 60
        assert both.count("ejections") >= 1


async def test_one_that_accepts_and_never_answers_is_given_up_before_anything_is_sent() -> None:
    async with raw_peer(mute) as address, beside(address) as both, asyncio.timeout(25):
        await both.all_are_answered(num_rounds=3)

        assert both.healthy.num_calls == 18
        assert both.count("ejections") >= 1


async def test_one_that_never_answered_anything_cannot_be_told_from_a_slow_one() -> None:
    silent = http2(lambda _stream_id: [])
    async with raw_peer(silent) as address, beside(address) as both, asyncio.timeout(15):
        ends = await asyncio.gather(*(both.unary("x", timeout_s=0.3) for _ in range(8)), return_exceptions=True)

        assert 0 < both.healthy.num_calls < 8
        assert {type(end) for end in ends} == {list, DeadlineExceeded}
    # Who wants every answer in time lets slow calls be made twice.
    hedging = CallLimits(hedge_after_s=0.02)
    async with raw_peer(silent) as address, beside(address, limits=hedging) as both, asyncio.timeout(15):
        assert await asyncio.gather(*(both.unary("x") for _ in range(8))) == [[1]] * 8
        assert both.count("hedges") > 0


@pytest.mark.parametrize("num_dead", [1, 5])
async def test_dead_ones_in_the_majority_cost_no_call(num_dead: int) -> None:
    dead = [free_port_address() for _ in range(num_dead)]
    async with beside(*dead) as both, asyncio.timeout(15):
        await both.all_are_answered()

        assert both.healthy.num_calls == 60

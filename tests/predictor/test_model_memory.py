"""Waiting for room: what is evicted for it, and what happens to who waits in vain."""

from __future__ import annotations

import asyncio

import pytest

from mesh.errors import ModelTooLarge, Overloaded
from predictor.model_memory import ModelMemory
from predictor.residency import Phase, Slot

MIB = 1 << 20


class Memory(ModelMemory):
    """Room for 10 MiB; evictions are written down, and end when the test says so."""

    def __init__(self, *, wait_s: float = 60.0) -> None:
        self.evicted: list[Slot] = []
        super().__init__(10 * MIB, self.evicted.append, wait_s=wait_s)

    def resident(self, size_mib: int) -> Slot:
        slot = self.want(size_mib * MIB)
        assert self.loaded(slot, size_mib * MIB)
        return slot


async def test_room_that_is_free_costs_no_wait() -> None:
    memory = Memory()

    await memory.wait_for(memory.want(10 * MIB))

    assert memory.used_bytes == 10 * MIB


async def test_a_wait_ends_when_those_who_were_evicted_are_out() -> None:
    memory = Memory()
    old = memory.resident(6)
    slot = memory.want(5 * MIB)
    waiting = asyncio.create_task(memory.wait_for(slot))
    await asyncio.sleep(0)
    assert memory.evicted == [old]
    assert not waiting.done()

    memory.left(old)
    await waiting

    assert slot.phase is Phase.LOADING


async def test_a_model_in_use_is_evicted_when_its_last_use_ends() -> None:
    memory = Memory()
    old = memory.resident(6)
    memory.acquire(old)
    memory.acquire(old)
    memory.want(5 * MIB)

    memory.release(old)
    assert memory.evicted == []
    memory.release(old)

    assert memory.evicted == [old]


async def test_who_waits_in_vain_is_told_and_forgotten() -> None:
    memory = Memory(wait_s=0.01)
    memory.acquire(memory.resident(6))
    slot = memory.want(5 * MIB)

    with pytest.raises(Overloaded, match=r"5\.0 MiB of memory did not become free within 0\.01 s: all models"):
        await memory.wait_for(slot)

    assert slot.phase is Phase.GONE
    assert memory.used_bytes == 6 * MIB


async def test_who_is_cancelled_makes_way() -> None:
    memory = Memory()
    held = memory.resident(6)
    memory.acquire(held)
    big = asyncio.create_task(memory.wait_for(memory.want(10 * MIB)))
    await asyncio.sleep(0)

    big.cancel()
    await asyncio.gather(big, return_exceptions=True)
    memory.release(held)

    assert memory.evicted == []


async def test_what_never_fits_is_refused_at_once() -> None:
    with pytest.raises(ModelTooLarge, match=r"11\.0 MiB of memory are needed, and .* budget is 10\.0 MiB"):
        Memory().want(11 * MIB)


async def test_a_model_that_is_larger_than_its_room_is_refused_when_none_may_leave() -> None:
    memory = Memory()
    memory.acquire(memory.resident(5))
    slot = memory.want(5 * MIB)

    assert not memory.loaded(slot, 6 * MIB)
    memory.left(slot)
    memory.left(slot)

    assert memory.used_bytes == 5 * MIB

"""The compute pool: off the event loop, and bounded."""

from __future__ import annotations

import asyncio
import threading

import pytest

from mesh.errors import Overloaded
from predictor.runtimes.compute import ComputePool


async def test_work_runs_in_another_thread() -> None:
    pool = ComputePool("model 'm'", num_threads=1, max_pending=1)

    assert await pool.run(threading.get_ident) != threading.get_ident()

    pool.close()


async def test_a_full_pool_refuses_at_once_and_recovers() -> None:
    pool = ComputePool("model 'm'", num_threads=1, max_pending=2)
    release = threading.Event()
    taken = [asyncio.create_task(pool.run(release.wait)) for _ in range(2)]
    await asyncio.sleep(0)

    with pytest.raises(Overloaded, match="model 'm' has 2 calls waiting"):
        await pool.run(release.wait)

    release.set()
    assert await asyncio.gather(*taken) == [True, True]
    assert await pool.run(lambda: 7) == 7
    pool.close()


async def test_a_cancelled_call_gives_its_place_back() -> None:
    pool = ComputePool("model 'm'", num_threads=1, max_pending=2)
    release = threading.Event()
    running = asyncio.create_task(pool.run(release.wait))
    waiting = asyncio.create_task(pool.run(release.wait))
    await asyncio.sleep(0)

    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    again = asyncio.create_task(pool.run(lambda: 7))
    release.set()

    assert await running
    assert await again == 7
    pool.close()


async def test_an_error_reaches_the_caller_and_frees_the_place() -> None:
    pool = ComputePool("model 'm'", num_threads=1, max_pending=1)

    with pytest.raises(ZeroDivisionError):
        await pool.run(lambda: 1 / 0)

    assert await pool.run(lambda: 7) == 7
    pool.close()

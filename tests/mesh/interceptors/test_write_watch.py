"""A write that waits too long is ended; time between writes does not count, and others' cancels stay cancels."""

from __future__ import annotations

import asyncio

import pytest

from mesh.errors import DeadlineExceeded
from mesh.interceptors.write_watch import WriteWatch


async def test_a_write_that_waits_too_long_is_ended() -> None:
    with pytest.raises(DeadlineExceeded, match=r"not read its answer for 0\.05 s"):
        with WriteWatch(0.05) as watch:
            watch.begin()
            await asyncio.Event().wait()

    task = asyncio.current_task()
    assert task is not None and task.cancelling() == 0


async def test_time_between_writes_does_not_count() -> None:
    loop = asyncio.get_running_loop()
    later = loop.create_future()
    loop.call_later(0.25, later.set_result, "done")  # five times as long

    with WriteWatch(0.05) as watch:
        watch.begin()
        watch.end()
        assert await later == "done"


async def test_each_write_has_the_whole_time() -> None:
    loop = asyncio.get_running_loop()
    between, during = loop.create_future(), loop.create_future()
    loop.call_later(0.3, between.set_result, None)
    loop.call_later(0.7, during.set_result, "written")

    with WriteWatch(0.5) as watch:  # the look at 0.5 s finds a write that began at 0.3 s
        await between
        watch.begin()
        assert await during == "written"


async def test_a_cancel_by_someone_else_stays_one() -> None:
    async def writing() -> None:
        with WriteWatch(30.0) as watch:
            watch.begin()
            await asyncio.Event().wait()

    task = asyncio.create_task(writing())
    await asyncio.sleep(0)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task

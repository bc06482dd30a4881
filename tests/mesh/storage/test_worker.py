"""Work in a thread reports to the loop and stops soon after nobody waits for it."""

from __future__ import annotations

import asyncio
import threading

import pytest

from mesh.storage.progress import Advance
from mesh.storage.worker import run_in_thread


async def test_progress_arrives_on_the_loop_before_the_result() -> None:
    loop_thread = threading.get_ident()
    seen: list[tuple[int, bool]] = []

    def work(advance: Advance) -> str:
        advance(1)
        advance(2)
        return "done"

    assert await run_in_thread(work, lambda n: seen.append((n, threading.get_ident() == loop_thread))) == "done"
    assert seen == [(1, True), (2, True)]


async def test_error_of_the_work_reaches_the_caller() -> None:
    def work(advance: Advance) -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await run_in_thread(work)


async def test_cancelled_work_has_ended_when_the_cancellation_is_seen() -> None:
    started, ended = asyncio.Event(), threading.Event()

    def work(advance: Advance) -> None:
        try:
            while True:
                advance(0)
        finally:
            ended.set()

    task = asyncio.create_task(run_in_thread(work, lambda _: started.set()))
    await asyncio.wait_for(started.wait(), 10)
    task.cancel()

    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()

"""Blocking work off the event loop that stops when its caller is cancelled.

A thread cannot be killed, so the work calls `advance` after every chunk and that call raises once nobody
waits for the result any more. It does not know what the work is.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

from mesh.storage.progress import Advance

T = TypeVar("T")


class _AbandonedError(Exception):
    """Ends the work in its thread; nobody sees it."""


async def run_in_thread(work: Callable[[Advance], T], on_bytes: Advance | None = None) -> T:
    """Run `work(advance)` in a thread; each `advance(done_bytes)` reaches `on_bytes` on the event loop.

    When cancelled it first waits until the work has noticed, one chunk at most, so that the caller may take
    the work's files away. Then CancelledError goes on.
    """
    loop = asyncio.get_running_loop()
    abandoned = threading.Event()

    def advance(done_bytes: int) -> None:
        if abandoned.is_set():
            raise _AbandonedError
        if on_bytes is not None:
            loop.call_soon_threadsafe(on_bytes, done_bytes)

    task = asyncio.create_task(asyncio.to_thread(work, advance))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        abandoned.set()
        await asyncio.gather(task, return_exceptions=True)
        raise

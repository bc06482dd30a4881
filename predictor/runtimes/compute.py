"""Threads for work that would block the event loop, behind a bound: what does not fit is refused at once."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from mesh.errors import Overloaded

T = TypeVar("T")


class ComputePool:
    """`num_threads` threads and at most `max_pending` calls that run or wait. `name` is in errors and thread names."""

    def __init__(self, name: str, *, num_threads: int, max_pending: int) -> None:
        self._name = name
        self._max_pending = max_pending
        self._slots = threading.BoundedSemaphore(max_pending)
        self._executor = ThreadPoolExecutor(num_threads, thread_name_prefix=name)

    async def run(self, function: Callable[[], T]) -> T:
        """Result of `function()`, computed in a thread. Raises Overloaded when all places are taken.

        A cancelled call leaves the queue; one that runs already keeps its place until it ends.
        """
        if not self._slots.acquire(blocking=False):
            raise Overloaded(f"{self._name} has {self._max_pending} calls waiting, as many as it takes")
        try:
            future = self._executor.submit(function)
        except BaseException:
            self._slots.release()
            raise
        future.add_done_callback(lambda _: self._slots.release())
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Drop what waits; what runs ends by itself. Safe to call twice."""
        self._executor.shutdown(wait=False, cancel_futures=True)

"""When to wait for company: on a busy event loop a message that waits a moment takes others with it, and saves them.

A message costs the same whatever is in it. An idle loop sends at once: nobody else would come. A busy one has requests
that it has not begun yet, and no counter shows them; what shows is that its thread hardly ever sleeps. Then, and only
then, a message waits one LINGER_S. The idea is Nagle's (RFC 896), with the loop's load in the place of the peer's ack.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

# The least that the event loop's timers know.
LINGER_S = 0.001
# Share of the time that the loop's thread computes, above which it counts as busy. One request at a time, with a quick
# model behind it, keeps a gateway at half of its time.
BUSY = 0.75
WINDOW_S = 0.02


class Linger:
    """Load of the thread that calls it. now, thread_time: clocks in seconds; the second one is of this thread's CPU."""

    def __init__(
        self,
        now: Callable[[], float] = time.perf_counter,
        thread_time: Callable[[], float] = time.thread_time,
    ) -> None:
        self.is_busy = False
        self._now = now
        self._thread_time = thread_time
        self._began = now()
        self._cpu_s = thread_time()

    def look(self) -> bool:
        """True while the loop was busy in the last whole window."""
        elapsed_s = self._now() - self._began
        if elapsed_s >= WINDOW_S:
            cpu_s = self._thread_time()
            self.is_busy = cpu_s - self._cpu_s > BUSY * elapsed_s
            self._began, self._cpu_s = self._began + elapsed_s, cpu_s
        return self.is_busy

    async def wait(self) -> None:
        """A moment, if the loop is busy."""
        if self.look():
            await asyncio.sleep(LINGER_S)

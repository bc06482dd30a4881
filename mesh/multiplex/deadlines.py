"""Deadlines of many calls with one timer: a timer for each costs as much as a small call, and almost none ever fires.

Knows no call: it says whose time is up. As in hashed timer wheels (Varghese and Lauck, 1987), exactness is given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

# How much later than its deadline a call may end. Also bounds how often the calls are looked through.
GRANULARITY_S = 0.002


class Deadlines:
    """Calls `expire` with the id of each call whose time is up. Of one event loop."""

    def __init__(self, expire: Callable[[int], None]) -> None:
        self._expire = expire
        self._loop = asyncio.get_running_loop()
        self._due: dict[int, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._looks_at = 0.0

    def add(self, call_id: int, timeout_s: float) -> None:
        """The call has `timeout_s` from now."""
        due = self._due[call_id] = self._loop.time() + timeout_s
        if self._timer is None or due < self._looks_at:
            self._look_at(due)

    def remove(self, call_id: int) -> None:
        """The call has ended, or never had a deadline."""
        self._due.pop(call_id, None)

    def close(self) -> None:
        """Forget all calls."""
        self._due.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_at(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._looks_at = max(due, self._loop.time() + GRANULARITY_S)
        self._timer = self._loop.call_at(self._looks_at, self._look)

    def _look(self) -> None:
        self._timer = None
        now = self._loop.time()
        for call_id in [call_id for call_id, due in self._due.items() if due <= now]:
            del self._due[call_id]
            self._expire(call_id)
        if self._due and self._timer is None:
            self._look_at(min(self._due.values()))

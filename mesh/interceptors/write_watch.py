"""Notices a client that has stopped reading, with one timer for a whole stream.

A timer for each write (`asyncio.timeout`) costs 12 µs, more than all else that a message takes in Python.
"""

from __future__ import annotations

import asyncio
from types import TracebackType

from mesh.errors import DeadlineExceeded


class WriteWatch:
    """Use it around the writes of one task: `with WriteWatch(60) as watch: watch.begin(); await …; watch.end()`.

    A write that is still not done `timeout_s` after `begin` is cancelled, and the block raises DeadlineExceeded.
    """

    def __init__(self, timeout_s: float) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._timeout_s = timeout_s
        self._task = task
        self._loop = asyncio.get_running_loop()
        self._began_at: float | None = None
        self._has_expired = False
        self._timer = self._loop.call_later(timeout_s, self._check)

    def begin(self) -> None:
        self._began_at = self._loop.time()

    def end(self) -> None:
        self._began_at = None

    def __enter__(self) -> WriteWatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._timer.cancel()
        # As asyncio.timeout does: ours to turn into an error only when nobody else cancelled the task as well.
        if self._has_expired and isinstance(error, asyncio.CancelledError) and self._task.uncancel() == 0:
            raise DeadlineExceeded(f"the client has not read its answer for {self._timeout_s:g} s") from None

    def _check(self) -> None:
        now = self._loop.time()
        # A write that begins after this look is due later than the next one, so none is missed or cut short.
        due = (now if self._began_at is None else self._began_at) + self._timeout_s
        if now >= due:
            self._has_expired = True
            self._task.cancel()
        else:
            self._timer = self._loop.call_at(due, self._check)

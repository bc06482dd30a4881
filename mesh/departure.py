"""Interrupts the reading of a stream whose replica is about to end, so that the stream can move to another one.

A replica that drains tells its callers so, and withdraws its lease: from then on its streams have others to go to, and
each that moves is one less for the drain to wait for. A stream that would end soon stays, and so does one that nobody
else can take.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

import grpc.aio

from mesh.endpoints import Endpoint

T = TypeVar("T")

GRACE_S = 1.0
_LOOK_AGAIN_S = 0.25


class ReplicaLeft(Exception):
    """The replica is about to end, or has left the mesh, and another can take the stream."""


class Departure:
    """Watches one attempt of a stream. Use from one event loop; close it when the attempt has ended.

    may_move: asked once the grace time is over, again and again until it says yes.
    """

    def __init__(self, endpoint: Endpoint, may_move: Callable[[], bool], grace_s: float = GRACE_S) -> None:
        self._endpoint = endpoint
        self._may_move = may_move
        self._grace_s = grace_s
        self._is_due = False
        self._was_interrupted = False
        self._reader: asyncio.Task[object] | None = None
        self._watching = asyncio.create_task(self._watch(), name="departure-watch")

    async def read(self, messages: AsyncGenerator[T, None]) -> T:
        """The next message. Raises StopAsyncIteration after the last, ReplicaLeft, and whatever `messages` raises.

        A message that comes at the same moment as the interruption is lost, like all that the old call had still to
        say: the next replica says it again.
        """
        if self._is_due:
            raise ReplicaLeft
        task = asyncio.current_task()
        assert task is not None
        num_cancels = task.cancelling()
        self._reader = task
        try:
            return await anext(messages)
        except (asyncio.CancelledError, grpc.aio.AioRpcError):
            # As asyncio.timeout does: ours to turn into ReplicaLeft only when nobody else cancelled the task as well.
            if self._was_interrupted and task.cancelling() - 1 <= num_cancels:
                raise ReplicaLeft from None
            raise
        finally:
            self._reader = None
            if self._was_interrupted:
                task.uncancel()

    def close(self) -> None:
        """Stop watching."""
        self._watching.cancel()

    async def _watch(self) -> None:
        await self._endpoint.departing.wait()
        await asyncio.sleep(self._grace_s)
        while True:
            if self._may_move():
                break
            await asyncio.sleep(_LOOK_AGAIN_S)
        self._is_due = True
        if self._reader is not None:
            self._was_interrupted = True
            self._reader.cancel()

"""Requests of one stream worked on side by side, and answered in the order in which they came.

Knows neither the protocol nor what a request is. Both directions are bounded: so many requests are worked on at a time,
and of one whose turn to be answered has not come, so many answers wait.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import Generic, TypeVar

from mesh.errors import ClientCancelled

RequestT = TypeVar("RequestT")
AnswerT = TypeVar("AnswerT")

MAX_IN_FLIGHT = 64
MAX_ANSWERS_WAITING = 16


async def answers_in_order(
    requests: AsyncIterator[RequestT],
    answer: Callable[[RequestT], AsyncGenerator[AnswerT, None]],
    *,
    max_in_flight: int = MAX_IN_FLIGHT,
) -> AsyncGenerator[AnswerT, None]:
    """All answers of the first request, then those of the second, and so on; `answer` makes them and does not raise.

    Closing the generator cancels whatever is worked on. What ends `requests` with an error is raised after the answers
    to those that came before.
    """
    line: asyncio.Queue[_Place[AnswerT] | Exception | None] = asyncio.Queue(max(1, max_in_flight - 1))
    working: set[asyncio.Task[None]] = set()

    async def read() -> None:
        end: Exception | None = None
        try:
            async for request in requests:
                place: _Place[AnswerT] = _Place()
                await line.put(place)
                task = asyncio.create_task(place.fill(answer(request)))
                working.add(task)
                task.add_done_callback(working.discard)
        except asyncio.CancelledError:
            if _is_being_cancelled():
                raise
            end = ClientCancelled("the client went away before its stream was complete")
        except Exception as error:  # raised by the generator, to whoever reads the answers
            end = error
        await line.put(end)

    reader = asyncio.create_task(read())
    try:
        while isinstance(place := await line.get(), _Place):
            while (response := await place.next()) is not None:
                yield response
        if place is not None:
            raise place
    finally:
        tasks = [reader, *working]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class _Place(Generic[AnswerT]):
    """One request's place in the line, where its answers wait until all before it have been given."""

    def __init__(self) -> None:
        self._answers: deque[AnswerT] = deque()
        self._is_complete = False
        self._news = asyncio.Event()
        self._room = asyncio.Event()

    async def fill(self, answers: AsyncGenerator[AnswerT, None]) -> None:
        try:
            async with aclosing(answers):
                async for answer in answers:
                    while len(self._answers) >= MAX_ANSWERS_WAITING:
                        self._room.clear()
                        await self._room.wait()
                    self._answers.append(answer)
                    self._news.set()
        finally:
            self._is_complete = True
            self._news.set()

    async def next(self) -> AnswerT | None:
        """None after the last."""
        while not self._answers:
            if self._is_complete:
                return None
            self._news.clear()
            await self._news.wait()
        self._room.set()
        return self._answers.popleft()


def _is_being_cancelled() -> bool:
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0

"""Several streams as one, each message with the number of its stream, as they come.

The streams run at the same time, each at most a few messages ahead of the reader. The first failure ends them all, and
so does closing the merged stream.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")

_MAX_AHEAD = 16


async def merged(streams: Sequence[AsyncGenerator[T, None]]) -> AsyncGenerator[tuple[int, T], None]:
    """(number of the stream, message) until all streams have ended. Closes the streams."""
    if len(streams) == 1:
        async with aclosing(streams[0]) as only:
            async for message in only:
                yield 0, message
        return
    queue: asyncio.Queue[tuple[int, T] | BaseException | None] = asyncio.Queue(_MAX_AHEAD)

    async def pump(number: int, stream: AsyncGenerator[T, None]) -> None:
        end: BaseException | None = None
        try:
            async with aclosing(stream):
                async for message in stream:
                    await queue.put((number, message))
        except Exception as error:
            end = error
        await queue.put(end)

    pumps = [asyncio.create_task(pump(number, stream)) for number, stream in enumerate(streams)]
    try:
        running = len(pumps)
        while running:
            item = await queue.get()
            if item is None:
                running -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
    finally:
        for task in pumps:
            task.cancel()
        await asyncio.gather(*pumps, return_exceptions=True)

"""Streams side by side: all their messages, one failure for all, and nothing left running."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from mesh.errors import Unavailable
from mesh.merging import merged


class Source:
    """A stream that says 0, 1, 2, … and knows whether it is still open."""

    def __init__(self, count: int | None = None, fails: bool = False) -> None:
        self.is_open = False
        self._count = count
        self._fails = fails

    async def stream(self) -> AsyncGenerator[int, None]:
        self.is_open = True
        try:
            number = 0
            while self._count is None or number < self._count:
                yield number
                number += 1
                await asyncio.sleep(0)
            if self._fails:
                raise Unavailable("gone")
        finally:
            self.is_open = False


@pytest.mark.parametrize("num_streams", [1, 3])
async def test_every_message_comes_once_and_in_the_order_of_its_stream(num_streams: int) -> None:
    sources = [Source(40) for _ in range(num_streams)]

    got = [item async for item in merged([source.stream() for source in sources])]

    for stream in range(num_streams):
        assert [number for index, number in got if index == stream] == list(range(40))


@pytest.mark.parametrize("num_streams", [1, 3])
async def test_first_failure_ends_all(num_streams: int) -> None:
    sources = [Source(2, fails=True), *(Source() for _ in range(num_streams - 1))]

    with pytest.raises(Unavailable):
        async with aclosing(merged([source.stream() for source in sources])) as messages:
            async for _ in messages:
                pass

    assert not any(source.is_open for source in sources)


@pytest.mark.parametrize("num_streams", [1, 3])
async def test_closing_early_closes_the_streams(num_streams: int) -> None:
    sources = [Source() for _ in range(num_streams)]

    async with aclosing(merged([source.stream() for source in sources])) as messages:
        await anext(messages)

    assert not any(source.is_open for source in sources)

"""Order, bounds and endings of a stream whose requests are worked on side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing

import pytest

from mesh.errors import ClientCancelled, InvalidInput
from mesh.testing import eventually
from predictor.ordered_stream import MAX_ANSWERS_WAITING, answers_in_order


class Work:
    """Answers request n with ["n.0", "n.1", …], `counts[n]` times, once `gates[n]` is open where there is one."""

    def __init__(self, **counts: int) -> None:
        self.counts = {int(name[1:]): count for name, count in counts.items()}
        self.gates: dict[int, asyncio.Event] = {}
        self.begun: list[int] = []
        self.ended: list[int] = []
        self.made: list[str] = []
        self.num_read = 0

    async def requests(self, count: int, error: BaseException | None = None) -> AsyncIterator[int]:
        for number in range(count):
            self.num_read += 1
            yield number
        if error is not None:
            raise error

    async def answer(self, request: int) -> AsyncGenerator[str, None]:
        self.begun.append(request)
        try:
            for index in range(self.counts.get(request, 1)):
                if request in self.gates:
                    await self.gates[request].wait()
                self.made.append(f"{request}.{index}")
                yield f"{request}.{index}"
        finally:
            self.ended.append(request)


async def test_answers_come_in_the_order_of_requests_though_later_ones_are_ready_first() -> None:
    work = Work(r1=3, r2=0)
    work.gates[0] = asyncio.Event()
    got: list[str] = []

    async def read() -> None:
        async for answer in answers_in_order(work.requests(4), work.answer):
            got.append(answer)

    reading = asyncio.create_task(read())
    await eventually(lambda: work.ended == [1, 2, 3])
    assert got == []
    work.gates[0].set()
    await reading

    assert got == ["0.0", "1.0", "1.1", "1.2", "3.0"]


async def test_only_so_many_requests_are_worked_on_at_a_time() -> None:
    work = Work()
    work.gates = {number: asyncio.Event() for number in range(20)}
    stream = answers_in_order(work.requests(20), work.answer, max_in_flight=4)
    first = asyncio.create_task(anext(stream))
    await eventually(lambda: len(work.begun) == 4)
    for _ in range(20):
        await asyncio.sleep(0)

    assert work.begun == [0, 1, 2, 3]
    assert work.num_read == 5, "one more is read, and waits"
    for gate in work.gates.values():
        gate.set()
    assert [await first, *[answer async for answer in stream]] == [f"{number}.0" for number in range(20)]


async def test_answers_whose_turn_has_not_come_wait_within_bounds() -> None:
    work = Work(r1=10 * MAX_ANSWERS_WAITING)
    work.gates[0] = asyncio.Event()
    stream = answers_in_order(work.requests(2), work.answer)
    first = asyncio.create_task(anext(stream))
    await eventually(lambda: len(work.made) >= MAX_ANSWERS_WAITING)
    for _ in range(20):
        await asyncio.sleep(0)

    assert len(work.made) == MAX_ANSWERS_WAITING + 1, "those, and the one in hand"
    work.gates[0].set()
    assert await first == "0.0"
    assert len([answer async for answer in stream]) == 10 * MAX_ANSWERS_WAITING


async def test_closing_the_stream_ends_what_is_worked_on() -> None:
    work = Work()
    work.gates = {1: asyncio.Event(), 2: asyncio.Event()}

    async with aclosing(answers_in_order(work.requests(3), work.answer)) as stream:
        assert await anext(stream) == "0.0"
        await eventually(lambda: len(work.begun) == 3)

    assert sorted(work.ended) == [0, 1, 2]
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_what_ends_the_requests_is_raised_after_the_answers_before_it() -> None:
    work = Work()
    got: list[str] = []

    with pytest.raises(InvalidInput, match="malformed"):
        async for answer in answers_in_order(work.requests(2, InvalidInput("malformed")), work.answer):
            got.append(answer)

    assert got == ["0.0", "1.0"]


async def test_a_cancel_out_of_the_requests_ends_the_stream_and_does_not_hang_it() -> None:
    work = Work()

    with pytest.raises(ClientCancelled):
        async for _ in answers_in_order(work.requests(1, asyncio.CancelledError()), work.answer):
            pass

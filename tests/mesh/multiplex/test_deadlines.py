"""One timer for many deadlines: who is expired, in which order, and who is not."""

from __future__ import annotations

import asyncio

from mesh.multiplex.deadlines import Deadlines
from mesh.testing import eventually


async def test_each_call_expires_once_and_in_order() -> None:
    expired: list[int] = []
    deadlines = Deadlines(expired.append)
    for call_id, timeout_s in ((1, 0.06), (2, 0.02), (3, 0.04), (4, 60.0)):
        deadlines.add(call_id, timeout_s)

    await eventually(lambda: len(expired) == 3)

    assert expired == [2, 3, 1]
    deadlines.close()


async def test_a_call_that_ended_does_not_expire() -> None:
    expired: list[int] = []
    deadlines = Deadlines(expired.append)
    deadlines.add(1, 0.01)
    deadlines.add(2, 0.02)
    deadlines.remove(1)
    deadlines.remove(7)

    await eventually(lambda: len(expired) == 1)

    assert expired == [2]


async def test_an_expired_call_may_add_another() -> None:
    expired: list[int] = []

    def again(call_id: int) -> None:
        expired.append(call_id)
        if call_id < 3:
            deadlines.add(call_id + 1, 0.0)

    deadlines = Deadlines(again)
    deadlines.add(1, 0.0)

    await eventually(lambda: expired == [1, 2, 3])


async def test_nothing_expires_after_the_close() -> None:
    expired: list[int] = []
    deadlines, others = Deadlines(expired.append), Deadlines(expired.append)
    deadlines.add(1, 0.01)
    others.add(2, 0.05)
    deadlines.close()

    await eventually(lambda: 2 in expired)
    await asyncio.sleep(0)

    assert expired == [2]

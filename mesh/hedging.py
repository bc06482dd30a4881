"""A call that is slow to answer is made a second time elsewhere, and the first good answer is taken (Dean and Barroso,
"The Tail at Scale", 2013). Knows no replicas: an attempt is a task.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def first_good(first: asyncio.Task[T], after_s: float, second: Callable[[], asyncio.Task[T] | None]) -> T:
    """The result of `first`; or, when it is not there after `after_s`, of whichever of both succeeds first.

    second: begins the other attempt, or says that there is none to be had. Owns both: what is not needed is cancelled
    and has ended when this returns. Raises what the attempt raised that failed last.
    """
    tasks = [first]
    try:
        await asyncio.wait(tasks, timeout=after_s)
        if not first.done() and (other := second()) is not None:
            tasks.append(other)
        pending = set(tasks)
        while True:
            done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
            good = next((task for task in done if not task.cancelled() and task.exception() is None), None)
            if good is not None or not pending:
                return (good or done.pop()).result()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

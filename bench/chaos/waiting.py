"""Waits for what no event tells of: the state of processes, and of services that may be dead."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

_POLL_S = 0.1


async def until(condition: Callable[[], Awaitable[bool]], within_s: float) -> bool:
    """Wait until `condition` holds, and say whether it came to that within `within_s` seconds."""
    try:
        async with asyncio.timeout(within_s):
            while not await condition():  # noqa: ASYNC110 -- any condition
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        return False
    return True

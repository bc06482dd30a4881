"""The tools for tests do what they say."""

from __future__ import annotations

import asyncio

import pytest

from mesh.testing import eventually


async def test_eventually_waits_for_a_condition() -> None:
    happened: list[int] = []
    asyncio.get_running_loop().call_later(0.02, happened.append, 1)

    await eventually(lambda: bool(happened))


async def test_eventually_gives_up_in_time() -> None:
    with pytest.raises(TimeoutError):
        await eventually(lambda: False, timeout_s=0.02)

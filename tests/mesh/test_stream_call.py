"""Streams over real servers: begun anew only before the first message, and ended where they are left."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from mesh.endpoints import Target
from mesh.errors import Unavailable
from tests.mesh.pool_rig import (
    PREDICTOR,
    Answering,
    Source,
    pool_over,
    predictor,
    serving,
    stream,
)


async def test_stream_passes_all_messages() -> None:
    async with serving(Answering()) as [address], pool_over(Source(predictor("a", address))) as pool:
        ids = [message.infer_response.id async for message in pool.stream(PREDICTOR, "iris", stream)]

    assert ids == ["0", "1", "2"]


async def test_stream_is_retried_before_the_first_message_only() -> None:
    broken, whole = Answering("broken"), Answering("whole")
    broken.error = Unavailable("going away")
    async with serving(broken, whole) as [first, second]:
        source = Source(predictor("broken", first), predictor("whole", second))
        async with pool_over(source) as pool:
            for _ in range(20):
                messages = [m.infer_response async for m in pool.stream(PREDICTOR, "iris", stream)]
                assert [m.model_name for m in messages] == ["whole"] * 3
            assert broken.calls > 0

            broken.messages_before_error = 1
            whole.error, whole.messages_before_error = Unavailable("going away"), 1
            calls = broken.calls + whole.calls
            with pytest.raises(Unavailable, match="going away"):
                async for _ in pool.stream(PREDICTOR, "iris", stream):
                    pass

    assert broken.calls + whole.calls == calls + 1


async def test_leaving_a_stream_early_cancels_it_at_the_replica_and_releases_it() -> None:
    servicer = Answering()
    servicer.held = asyncio.Event()
    async with serving(servicer) as [address], pool_over(Source(predictor("a", address))) as pool:
        async with aclosing(pool.stream(PREDICTOR, "iris", stream)) as messages:
            async for _ in messages:
                break
        async with asyncio.timeout(5):
            await servicer.cancelled.wait()

        [endpoint] = pool._endpoints.serving(Target(PREDICTOR, "iris"))
        assert endpoint.in_flight == 0

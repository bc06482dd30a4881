"""The benchmark of batching runs, and sees requests joined where they are."""

from __future__ import annotations

import pytest

from bench.batching import measure


@pytest.mark.parametrize(("batching", "joined"), [(True, True), (False, False)])
async def test_it_measures_with_and_without_batching(batching: bool, joined: bool) -> None:
    rate, cpu_us, rows = await measure(busy_s=0.001, batching=batching, concurrency=8, seconds=0.02)

    assert rate > 0
    assert cpu_us > 0
    assert (rows > 1) is joined

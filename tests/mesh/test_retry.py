"""The retry budget against its bound, and waits against their limits."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from mesh.retry import Backoff, RetryBudget

STEPS = st.lists(st.one_of(st.just("attempt"), st.just("retry"), st.floats(0, 10)), max_size=300)


@given(steps=STEPS, ratio=st.floats(0, 1), floor=st.floats(0, 10), burst=st.integers(0, 20))
def test_retries_stay_within_the_share_of_traffic(
    steps: list[str | float], ratio: float, floor: float, burst: int
) -> None:
    clock = [0.0]
    budget = RetryBudget(ratio, floor, burst, now=lambda: clock[0])
    attempts = spent = 0
    for step in steps:
        if step == "attempt":
            budget.on_attempt()
            attempts += 1
        elif step == "retry":
            spent += budget.try_spend()
        else:
            clock[0] += float(step)

    assert spent <= burst + ratio * attempts + floor * clock[0] + 1e-6


def test_floor_lets_a_quiet_client_retry() -> None:
    clock = [0.0]
    budget = RetryBudget(ratio=0.0, floor_per_s=1.0, burst=1.0, now=lambda: clock[0])

    assert budget.try_spend()
    assert not budget.try_spend()
    clock[0] = 1.0
    assert budget.try_spend()


@given(seed=st.integers(), steps=st.integers(1, 12))
def test_waits_grow_within_their_ceiling_and_start_again_after_success(seed: int, steps: int) -> None:
    backoff = Backoff(0.1, 2.0, random.Random(seed))
    for step in range(steps):
        ceiling = min(2.0, 0.1 * 2**step)
        assert ceiling / 2 <= backoff.next_s() <= ceiling
    backoff.reset()

    assert backoff.next_s() <= 0.1

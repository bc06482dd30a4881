"""Delays grow, stop growing, and start over after a good run."""

from __future__ import annotations

from deploy.local.backoff import Backoff, BackoffPolicy


def test_delays_double_up_to_the_limit() -> None:
    backoff = Backoff(BackoffPolicy(first_s=0.2, max_s=10.0))

    delays = [backoff.delay_after(ran_s=0.1) for _ in range(8)]

    assert delays == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10.0, 10.0]


def test_a_good_run_forgets_the_failures_before_it() -> None:
    backoff = Backoff(BackoffPolicy(first_s=0.2, max_s=10.0, steady_s=30.0))
    for _ in range(5):
        backoff.delay_after(ran_s=1.0)

    assert backoff.delay_after(ran_s=30.0) == 0.2
    assert backoff.delay_after(ran_s=1.0) == 0.4

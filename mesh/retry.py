"""How often to try again: a budget that all calls share, and waits that grow.

A budget is a share of live traffic, not a count per request, so that retries cannot multiply an outage (Finagle's
RetryBudget; the token bucket is gRFC A6's). Waits grow and are spread at random ("full jitter", Brooker, 2015), so that
a crowd does not come back in step. Pure: it knows neither calls nor channels, and never sleeps.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable


class RetryBudget:
    """Allows `ratio` retries per first attempt, and `floor_per_s` a second even when there is little traffic.

    Unused retries add up to at most `burst`. Over any span of t seconds with n first attempts, at most
    burst + ratio · n + floor_per_s · t retries are allowed.
    """

    def __init__(
        self,
        ratio: float = 0.2,
        floor_per_s: float = 10.0,
        burst: float = 100.0,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ratio = ratio
        self._floor_per_s = floor_per_s
        self._burst = burst
        self._now = now
        self._tokens = burst
        self._filled_at = now()

    def on_attempt(self) -> None:
        """Count a request's first attempt."""
        self._tokens = min(self._burst, self._tokens + self._ratio)

    def try_spend(self) -> bool:
        """Take one retry out of the budget; False when there is none."""
        now = self._now()
        self._tokens = min(self._burst, self._tokens + (now - self._filled_at) * self._floor_per_s)
        self._filled_at = now
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True


class Backoff:
    """Waits of a loop that tries again: each up to twice the one before, from `first_s` to `limit_s`."""

    def __init__(self, first_s: float, limit_s: float, rng: random.Random | None = None) -> None:
        self._first_s = first_s
        self._limit_s = limit_s
        # Only spreads clients over time: nothing secret or repeatable hangs on it.
        self._rng = rng or random.Random()
        self._ceiling_s = first_s

    def next_s(self) -> float:
        """Seconds to wait now: between half of this step's ceiling and the whole of it."""
        ceiling_s = self._ceiling_s
        self._ceiling_s = min(self._limit_s, ceiling_s * 2)
        return ceiling_s * (0.5 + self._rng.random() / 2)

    def reset(self) -> None:
        """It worked: the next wait is the first one again."""
        self._ceiling_s = self._first_s

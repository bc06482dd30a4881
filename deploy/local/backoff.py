"""How long to wait before a service that ended is started again: longer each time, short again once it ran well."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class BackoffPolicy:
    """Delays grow from `first_s` by `factor` to `max_s`; a run of `steady_s` forgets what was before."""

    first_s: float = 0.2
    max_s: float = 10.0
    factor: float = 2.0
    steady_s: float = 30.0


class Backoff:
    """The delays of one service."""

    def __init__(self, policy: BackoffPolicy) -> None:
        self._policy = policy
        self._next_s = policy.first_s

    def delay_after(self, ran_s: float) -> float:
        """Seconds to wait after a run that lasted `ran_s` seconds."""
        if ran_s >= self._policy.steady_s:
            self._next_s = self._policy.first_s
        delay_s = self._next_s
        self._next_s = min(delay_s * self._policy.factor, self._policy.max_s)
        return delay_s

"""Keeps replicas that fail out of the choice for growing times (Envoy's outlier detection; half-open as in a breaker).

Pure: it counts what it is told, with the clock that it is given. A failure here is one of the way to the replica (no
connection, a broken one), not an error that the replica answered.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

FIRST_EJECTION_S = 1.0
LONGEST_EJECTION_S = 30.0


class Outlier:
    """The failures of one replica in a row."""

    __slots__ = ("_failures", "ejected_until")

    def __init__(self) -> None:
        self._failures = 0
        self.ejected_until = 0.0

    def failed(self, now: float) -> bool:
        """Count a failure; True when it ejects: for 1 s, 2 s, 4 s … 30 s.

        Requests that fail together with the one that ejected do not count again.
        """
        if now < self.ejected_until:
            return False
        self.ejected_until = now + min(LONGEST_EJECTION_S, FIRST_EJECTION_S * 2 ** min(self._failures, 10))
        self._failures += 1
        return True

    def succeeded(self) -> None:
        """The replica answered: all is forgotten."""
        self._failures = 0
        self.ejected_until = 0.0

    def admits(self, now: float, in_flight: int) -> bool:
        """True when it may be chosen. After an ejection one request at a time may try, until one succeeds.

        A dead replica fails fast, so its load is always the least: without the limit it would draw all requests.
        """
        return self._failures == 0 or (now >= self.ejected_until and in_flight == 0)


class Ejectable(Protocol):
    """A candidate with its history."""

    @property
    def in_flight(self) -> int: ...

    @property
    def outlier(self) -> Outlier: ...


E = TypeVar("E", bound=Ejectable)


def admitted(candidates: Sequence[E], now: float) -> Sequence[E]:
    """The candidates that may be chosen: never fewer than half of them, rounded up.

    When more than half are out, those whose time is up first come back: with everything failing, trying is all that is
    left, and the reason may be on this side.
    """
    inside = [candidate for candidate in candidates if candidate.outlier.admits(now, candidate.in_flight)]
    least = len(candidates) - len(candidates) // 2
    if len(inside) >= least:
        return inside
    outside = [candidate for candidate in candidates if not candidate.outlier.admits(now, candidate.in_flight)]
    outside.sort(key=lambda candidate: candidate.outlier.ejected_until)
    return inside + outside[: least - len(inside)]

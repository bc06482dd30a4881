"""A figure over the rounds of a benchmark: its median, and how far the rounds lie apart."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

# Others' share of the CPUs above which a figure says as much about them as about the server.
POLLUTED = 0.1


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and greatest of the rounds. is_polluted: in a round, others took more than POLLUTED of the CPUs."""

    median: float
    least: float
    greatest: float
    is_polluted: bool = False


def spread_of(values: Iterable[float | None], is_polluted: bool = False) -> Spread | None:
    """None when there is no value, or a round has none."""
    known = list(values)
    present = [value for value in known if value is not None]
    if not present or len(present) < len(known):
        return None
    return Spread(statistics.median(present), min(present), max(present), is_polluted)

"""The power of two choices: of two candidates drawn at random, the one with less work (Mitzenmacher, 2001).

Nearly as even as asking all of them, and several clients that do not see each other do not herd onto the same one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence, Set

from mesh.balancing import Candidate, Request


class LeastLoaded:
    """Work is what this process dispatched, counted at once, and what the replicas report of others'."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def pick(self, candidates: Sequence[Candidate], request: Request) -> int:
        count = len(candidates)
        if count == 1:
            return 0
        first = int(self._rng.random() * count)
        second = int(self._rng.random() * (count - 1))
        second += second >= first  # the draw is without replacement
        return first if candidates[first].load <= candidates[second].load else second

    def retain(self, ids: Set[str]) -> None:
        pass

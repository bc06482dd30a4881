"""Each candidate in its turn. Starts at a random place, so that many clients do not begin with the same replica."""

from __future__ import annotations

import random
from collections.abc import Sequence, Set

from mesh.balancing import Candidate, Request


class RoundRobin:
    """Even over time when candidates stay the same; does not look at load."""

    def __init__(self, rng: random.Random) -> None:
        self._turn = rng.randrange(1 << 16)

    def pick(self, candidates: Sequence[Candidate], request: Request) -> int:
        self._turn += 1
        return self._turn % len(candidates)

    def retain(self, ids: Set[str]) -> None:
        pass

"""Requests of one key go to one replica while that has room: rendezvous hashing with bounded loads.

A replica takes at most a quarter more than the mean load; what is above goes to the key's next one (consistent hashing
with bounded loads: Mirrokni, Thorup and Zadimoghaddam, 2018). The same for every gateway, and across restarts.
"""

from __future__ import annotations

import random
from collections.abc import Sequence, Set

from mesh.balancing import Candidate, Request
from mesh.balancing.least_loaded import LeastLoaded
from mesh.balancing.members import Members, hash_key

BOUND = 1.25


class ConsistentHash:
    """By the request's key; without one by the first block of its prefix; without that as LeastLoaded."""

    def __init__(self, rng: random.Random) -> None:
        self._least_loaded = LeastLoaded(rng)
        self._members = Members()

    def pick(self, candidates: Sequence[Candidate], request: Request) -> int:
        if not request.key and not request.prefix:
            return self._least_loaded.pick(candidates, request)
        self._members.follow(candidates)
        key = hash_key(request.key) if request.key else request.prefix[0]
        chosen = self._members.first_below(BOUND * self._members.mean_load() + request.cost, key)
        return self._least_loaded.pick(candidates, request) if chosen is None else chosen

    def retain(self, ids: Set[str]) -> None:
        self._members.retain(ids)

"""The candidates of a pick, and what is too slow to find out anew for each: their order for a key, and their mean load.

The order is that of rendezvous hashing (Thaler and Ravishankar, 1998): each candidate has a weight of its own for each
key, the same in every process. When one leaves, only keys whose first it was get another first, and those spread over
all; one that joins takes only what it is first for. A pool's candidates are the same objects in call after call, which
is seen in 2 µs for 256 of them.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from mesh.balancing import Candidate

# The mean of so many stands for the mean of all.
SAMPLE = 16
MOST_MEDIANS = 4.0
# About every other one is below the mean: that so many in a row are above it says that all are.
MAX_TRIES = 16


class Members:
    """Follow the candidates before asking anything. Not for requests in parallel."""

    def __init__(self) -> None:
        self._seen: list[Candidate] = []
        self._hash_of: dict[str, int] = {}
        self._hashes = np.zeros(0, np.uint64)
        self._next_sample = 0

    def follow(self, candidates: Sequence[Candidate]) -> bool:
        """Take these as the candidates; True when they are others than before."""
        seen = list(candidates)
        if seen == self._seen:
            return False
        self._seen = seen
        self._hashes = np.array([self._hash(candidate.id) for candidate in seen], np.uint64)
        return True

    def in_order(self, key: int) -> list[int]:
        """The indices of all candidates, as they come first for the key (64 bits)."""
        weights = _spread(self._hashes ^ np.uint64(key & 0xFFFFFFFFFFFFFFFF))
        order: list[int] = np.argsort(weights).tolist()
        return order

    def first_below(self, limit: float, key: int) -> int | None:
        """The index of the first in the key's order whose load is not above the limit; None when many in a row are."""
        for index in self.in_order(key)[:MAX_TRIES]:
            if self._seen[index].load <= limit:
                return index
        return None

    def mean_load(self) -> float:
        """Of all candidates; of more than 16, of 16 of them, others each time.

        No one counts as more than four times the median: who lies about its load does not make the others look idle.
        """
        members = self._seen
        if len(members) > SAMPLE:
            start = self._next_sample = (self._next_sample + SAMPLE) % len(members)
            members = members[start : start + SAMPLE] + members[: max(0, start + SAMPLE - len(members))]
        loads = sorted([member.load for member in members])
        most = MOST_MEDIANS * loads[(len(loads) - 1) // 2]
        return sum([min(load, most) for load in loads]) / len(loads)

    def retain(self, ids: Set[str]) -> None:
        """Forget others than these."""
        self._seen = []
        self._hash_of = {id: value for id, value in self._hash_of.items() if id in ids}

    def _hash(self, id: str) -> int:
        known = self._hash_of.get(id)
        if known is None:
            known = self._hash_of[id] = hash_key(id)
        return known


def hash_key(key: str) -> int:
    """64 bits of a text, the same in every process."""
    return int.from_bytes(blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def _spread(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix the bits: the finalizer of SplitMix64 (Steele, Lea and Flood, 2014). Wraps around on purpose."""
    values ^= values >> np.uint64(30)
    values *= np.uint64(0xBF58476D1CE4E5B9)
    values ^= values >> np.uint64(27)
    values *= np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values

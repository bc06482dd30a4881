"""A prompt goes where the longest part of it is held already, unless that replica is much busier than the others.

What is tuned, and how near it comes to perfect knowledge: docs/balancing.md. Three steps, each by load as well:

1. The replicas that were sent the longest prefix from here. One that is alone with it holds a conversation, most
   likely: moving that costs all of it, so the replica may be much busier than the mean. Several hold a text that many
   requests share: among them, the next block decides by rendezvous hashing, and sooner a further one gets the text.
2. All replicas, in the order that rendezvous hashing gives for the prompt's first block. Gateways that do not see each
   other begin at the same one, and go on in the same order, so that each finds what another has placed. The first that
   is not too busy takes it. For a prompt of which nothing is known, the fewer prompts of late shared anything, the less
   busy that may be: where nothing is ever shared, prompts go by load.
3. When all of these are too busy: the less busy of two.
"""

from __future__ import annotations

import random
from collections.abc import Sequence, Set

from mesh.balancing import Candidate, Request
from mesh.balancing.least_loaded import LeastLoaded
from mesh.balancing.members import Members
from mesh.balancing.prefix import MAX_BLOCKS
from mesh.balancing.prefix_index import PrefixIndex

# How busy a replica may be to get the request, as a multiple of the mean load, and of the request's own cost on top.
ALONE = (2.5, 2.0)
SHARED = (2.0, 2.0)
# Of a prompt of which nothing is known, where no prompt shares anything; where all others do, it is SHARED.
COLD = (0.9, 0.0)
# Weight of one prompt in the share of those of which something was known: about the last hundred count.
NEWEST = 0.01


class PrefixAffinity:
    """Without a prefix, as LeastLoaded."""

    def __init__(self, rng: random.Random) -> None:
        self._least_loaded = LeastLoaded(rng)
        self._members = Members()
        self._index = PrefixIndex()
        self._bits: list[int] = []  # by the candidates' indices
        self._all_bits = 0
        # Until there are prompts to judge by, they are taken to share: shared texts that were spread stay spread.
        self._known_share = 1.0

    def pick(self, candidates: Sequence[Candidate], request: Request) -> int:
        if not request.prefix:
            return self._least_loaded.pick(candidates, request)
        if self._members.follow(candidates):
            self._bits = [self._index.bit(candidate.id) for candidate in candidates]
            self._all_bits = sum(set(self._bits))
        prefix = request.prefix[:MAX_BLOCKS]
        chosen = self._choose(candidates, request, prefix)
        self._index.add(prefix, self._bits[chosen])
        return chosen

    def _choose(self, candidates: Sequence[Candidate], request: Request, prefix: Sequence[int]) -> int:
        mean = self._members.mean_load()
        depth, holders = self._index.longest(prefix, self._all_bits)
        self._known_share += NEWEST * ((depth > 0) - self._known_share)
        if depth:
            times, costs = ALONE if holders & (holders - 1) == 0 else SHARED
            limit = times * mean + costs * request.cost
            for index in self._among(holders, prefix[depth] if depth < len(prefix) else prefix[-1]):
                if candidates[index].load <= limit:
                    return index
        times, costs = SHARED if depth else self._cold()
        chosen = self._members.first_below(times * mean + costs * request.cost, prefix[0])
        return self._least_loaded.pick(candidates, request) if chosen is None else chosen

    def _cold(self) -> tuple[float, float]:
        """Between COLD and SHARED, as far as prompts of late were known."""
        times, costs = (cold + self._known_share * (shared - cold) for cold, shared in zip(COLD, SHARED, strict=True))
        return times, costs

    def _among(self, holders: int, key: int) -> list[int]:
        """The indices of the holders, as they come first for the key."""
        if holders & (holders - 1) == 0:
            return [self._bits.index(holders)]
        return [index for index in self._members.in_order(key) if self._bits[index] & holders]

    def retain(self, ids: Set[str]) -> None:
        self._members.retain(ids)
        self._index.retain(ids)

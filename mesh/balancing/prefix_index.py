"""Which replicas were sent which prefixes: what they probably hold. Bounded: the blocks least recently used go first.

A block's holders are the bits of one integer, so that hundreds of replicas cost no more than a few. It is only what was
sent from here: what a replica has dropped since, nobody says. A wrong guess costs what a cold prompt costs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence, Set

# About 12 MB when full, among 256 replicas; a conversation of 4,000 tokens is 25.
MAX_BLOCKS = 1 << 16


class PrefixIndex:
    """Prefixes are chained hashes, as of mesh.balancing.prefix."""

    def __init__(self, max_blocks: int = MAX_BLOCKS) -> None:
        self._max_blocks = max_blocks
        self._holders: OrderedDict[int, int] = OrderedDict()  # block → bits; the least recently used block first
        self._bits: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._holders)

    def bit(self, replica_id: str) -> int:
        """The bit that stands for a replica, until it is forgotten."""
        bit = self._bits.get(replica_id)
        if bit is None:
            taken = 0
            for other in self._bits.values():
                taken |= other
            bit = self._bits[replica_id] = ~taken & (taken + 1)  # the lowest that is free
        return bit

    def longest(self, prefix: Sequence[int], among: int) -> tuple[int, int]:
        """How many blocks of the prefix somebody `among` these bits holds, and the bits of those that hold so many."""
        holders, depth = among, 0
        for block in prefix:
            holding = holders & self._holders.get(block, 0)
            if not holding:
                break
            holders, depth = holding, depth + 1
        return depth, holders if depth else 0

    def add(self, prefix: Sequence[int], bit: int) -> None:
        """A prompt of this prefix was sent to a replica. Its first block outlives its last."""
        for block in reversed(prefix):
            self._holders[block] = self._holders.get(block, 0) | bit
            self._holders.move_to_end(block)
        while len(self._holders) > self._max_blocks:
            self._holders.popitem(last=False)

    def retain(self, ids: Set[str]) -> None:
        """Forget other replicas than these, and the blocks that only they hold."""
        gone = 0
        for id in self._bits.keys() - ids:
            gone |= self._bits.pop(id)
        # A replica is in few of the blocks: looking through a full index takes 13 ms, writing it anew 56.
        for block, holders in [item for item in self._holders.items() if item[1] & gone]:
            if holders & ~gone:
                self._holders[block] = holders & ~gone
            else:
                del self._holders[block]

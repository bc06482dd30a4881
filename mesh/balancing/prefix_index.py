"""Which replicas were sent which prefixes: what they probably hold. Bounded: the blocks least recently used go first.

A block's holders are the bits of one integer, so that hundreds of replicas cost no more than a few. It is only what was
sent from here: what a replica has dropped since, nobody says. A wrong guess costs what a cold prompt costs.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence, Set

# About 20 MB when full of blocks that hundreds of replicas hold; a conversation of 4,000 tokens is 25.
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
        gone = [id for id in self._bits if id not in ids]
        if not gone:
            return
        for id in gone:
            del self._bits[id]
        kept = 0
        for bit in self._bits.values():
            kept |= bit
        self._holders = OrderedDict(
            (block, holders & kept) for block, holders in self._holders.items() if holders & kept
        )

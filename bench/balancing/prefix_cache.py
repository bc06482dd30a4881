"""What a replica's engine holds of prompts: full blocks, the least recently used go first. Simulated."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence


class PrefixCache:
    """At most `capacity` blocks."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._blocks: OrderedDict[int, None] = OrderedDict()  # the least recently used first

    def __len__(self) -> int:
        return len(self._blocks)

    def held(self, blocks: Sequence[int]) -> int:
        """How many of a prompt's blocks are here, from the first on without a gap."""
        for number, block in enumerate(blocks):
            if block not in self._blocks:
                return number
        return len(blocks)

    def use(self, blocks: Sequence[int]) -> None:
        """Hold these blocks, as the most recently used; a prompt's first block outlives its last."""
        for block in reversed(blocks):
            self._blocks[block] = None
            self._blocks.move_to_end(block)
        while len(self._blocks) > self._capacity:
            self._blocks.popitem(last=False)

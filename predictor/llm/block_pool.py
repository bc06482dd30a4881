"""The KV cache as a pool of fixed-size blocks: who holds which, and what can be found again by its content.

Blocks are counted references, as in PagedAttention (Kwon et al., 2023). A full block may be registered under the hash
of its tokens chained to that of the block before it, so that a later prompt with the same beginning finds it, as in
vLLM's automatic prefix caching. Only ids live here: this module knows neither sequences nor memory nor torch.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

_DIGEST_BYTES = 32


@dataclass(frozen=True, slots=True)
class CacheIdentity:
    """What two requests must have in common, besides tokens, to share blocks.

    adapter: name of what changes the weights; empty for the model as it is.
    salt: of a tenant who shares with nobody else; empty for everybody.
    """

    adapter: str = ""
    salt: str = ""

    def encode(self) -> bytes:
        """Different identities have different bytes: the length of the first part stands before it."""
        adapter, salt = (text.encode("utf-8", "surrogatepass") for text in (self.adapter, self.salt))
        return len(adapter).to_bytes(8, "little") + adapter + salt


def extend_block_hashes(
    hashes: list[bytes], token_ids: Sequence[int], block_size: int, identity: CacheIdentity
) -> None:
    """Append to `hashes` the chained hash of every full block of `token_ids` that it lacks. O(new blocks).

    The identity starts the chain: equal tokens under different identities never share a block. The hash is a
    cryptographic one, since whoever could forge a collision could read another request's cache.
    """
    for index in range(len(hashes), len(token_ids) // block_size):
        parent = hashes[-1] if hashes else identity.encode()
        digest = blake2b(parent, digest_size=_DIGEST_BYTES, person=b"block" if hashes else b"salt")
        digest.update(array("q", token_ids[index * block_size : (index + 1) * block_size]).tobytes())
        hashes.append(digest.digest())


class BlockPool:
    """Blocks 0 … num_blocks-1, each of `block_size` tokens.

    A block is in exactly one of three states:
      held        ref count above 0; its id stands in as many block tables
      evictable   ref count 0, content registered; still found by its hash until it is the least recently used
      blank       ref count 0, content of no use
    """

    def __init__(self, num_blocks: int, block_size: int, *, enable_prefix_caching: bool = True) -> None:
        if num_blocks < 1 or block_size < 1:
            raise ValueError(f"a pool needs blocks and tokens in them, not {num_blocks} of {block_size}")
        self.num_blocks = num_blocks
        self.block_size = block_size
        self.enable_prefix_caching = enable_prefix_caching
        self._ref_counts = [0] * num_blocks
        self._hash_of: list[bytes | None] = [None] * num_blocks
        self._block_of: dict[bytes, int] = {}
        self._blank = list(reversed(range(num_blocks)))
        self._evictable: OrderedDict[int, None] = OrderedDict()  # least recently used first

    @property
    def num_free_blocks(self) -> int:
        """Blocks that an allocation can have: blank and evictable ones."""
        return len(self._blank) + len(self._evictable)

    @property
    def num_evictable_blocks(self) -> int:
        """Free blocks that a prompt with the same beginning would still find."""
        return len(self._evictable)

    @property
    def usage(self) -> float:
        """Share of the blocks that are held, 0 to 1."""
        return 1.0 - self.num_free_blocks / self.num_blocks

    def num_blocks_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.block_size)

    def find_prefix(self, hashes: Iterable[bytes]) -> list[int]:
        """The blocks that hold the longest registered beginning of the chain `hashes`. Changes nothing."""
        found: list[int] = []
        for block_hash in hashes:
            block_id = self._block_of.get(block_hash)
            if block_id is None:
                break
            found.append(block_id)
        return found

    def num_free_without(self, block_ids: Iterable[int]) -> int:
        """Free blocks that would be left once `block_ids` (distinct) are held again."""
        return self.num_free_blocks - sum(self._ref_counts[block_id] == 0 for block_id in block_ids)

    def allocate(self, num_new: int, reused: Sequence[int] = ()) -> list[int] | None:
        """Hold `reused` (as found by `find_prefix`) and `num_new` others, and return the ids in that order.

        Returns None and changes nothing when too few blocks are free. New blocks come from the blank ones, then from
        the evictable ones, least recently used first; those lose their registration.
        """
        if num_new > self.num_free_without(reused):
            return None
        self.share(reused)
        return [*reused, *(self._take() for _ in range(num_new))]

    def share(self, block_ids: Iterable[int]) -> None:
        """Count one more holder for each of `block_ids`, held or evictable."""
        for block_id in block_ids:
            if self._ref_counts[block_id] == 0:
                del self._evictable[block_id]
            self._ref_counts[block_id] += 1

    def release(self, block_ids: Sequence[int]) -> None:
        """Count one holder less for each block. The last of a table becomes evictable first, the prefix last."""
        for block_id in reversed(block_ids):
            assert self._ref_counts[block_id] > 0, f"block {block_id} is released by nobody who holds it"
            self._ref_counts[block_id] -= 1
            if self._ref_counts[block_id] == 0:
                if self._hash_of[block_id] is None:
                    self._blank.append(block_id)
                else:
                    self._evictable[block_id] = None

    def register(self, block_id: int, block_hash: bytes) -> None:
        """Make a held block findable whose content is computed, or will be before anyone who finds it reads it.

        Of equal blocks the first stays the one found.
        """
        assert self._ref_counts[block_id] > 0, f"block {block_id} is registered by nobody who holds it"
        if self.enable_prefix_caching and self._hash_of[block_id] is None and block_hash not in self._block_of:
            self._hash_of[block_id] = block_hash
            self._block_of[block_hash] = block_id

    def unregister(self, block_id: int) -> None:
        """Have nobody find a block any more, held or not. Does nothing when nobody would."""
        block_hash = self._hash_of[block_id]
        if block_hash is None:
            return
        self._hash_of[block_id] = None
        del self._block_of[block_hash]
        if self._ref_counts[block_id] == 0:
            del self._evictable[block_id]
            self._blank.append(block_id)

    def _take(self) -> int:
        block_id = self._blank.pop() if self._blank else self._evict()
        self._ref_counts[block_id] = 1
        return block_id

    def _evict(self) -> int:
        block_id, _ = self._evictable.popitem(last=False)
        block_hash = self._hash_of[block_id]
        assert block_hash is not None
        del self._block_of[block_hash]
        self._hash_of[block_id] = None
        return block_id

    def check_invariants(self) -> None:
        """Raise AssertionError when the states do not partition the blocks. For tests and debugging; O(blocks)."""
        blank, evictable = set(self._blank), set(self._evictable)
        held = {block_id for block_id, count in enumerate(self._ref_counts) if count > 0}
        assert min(self._ref_counts) >= 0
        assert len(blank) == len(self._blank), "a blank block is listed twice"
        assert len(blank) + len(evictable) + len(held) == self.num_blocks
        assert blank | evictable | held == set(range(self.num_blocks))
        assert all(self._hash_of[block_id] is None for block_id in blank)
        assert all(self._hash_of[block_id] is not None for block_id in evictable)
        registered = {h: block_id for block_id, h in enumerate(self._hash_of) if h is not None}
        assert registered == self._block_of

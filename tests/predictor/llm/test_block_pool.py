"""The block pool keeps its three states apart, whatever is asked of it, and never finds what is not there."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from predictor.llm.block_pool import BlockPool, CacheIdentity, extend_block_hashes


def hashes_of(tokens: list[int], salt: str = "", adapter: str = "", block_size: int = 4) -> list[bytes]:
    hashes: list[bytes] = []
    extend_block_hashes(hashes, tokens, block_size, CacheIdentity(adapter, salt))
    return hashes


def test_hashes_cover_full_blocks_and_grow_in_place() -> None:
    hashes = hashes_of(list(range(6)))

    extend_block_hashes(hashes, list(range(12)), 4, CacheIdentity())

    assert len(hashes_of(list(range(7)))) == 1
    assert hashes == hashes_of(list(range(12)))


def test_a_hash_depends_on_all_tokens_before_and_on_salt_and_adapter() -> None:
    tokens = list(range(8))

    assert hashes_of([9, *tokens[1:]])[1] != hashes_of(tokens)[1]
    assert hashes_of(tokens, "tenant a") != hashes_of(tokens, "tenant b")
    assert hashes_of(tokens, "tenant a") != hashes_of(tokens)
    assert hashes_of(tokens, adapter="x") != hashes_of(tokens)
    assert hashes_of(tokens, adapter="x") != hashes_of(tokens, "x")
    assert hashes_of(tokens, "bc", "a") != hashes_of(tokens, "c", "ab")


def test_an_unregistered_block_is_not_found_whether_held_or_free() -> None:
    pool = BlockPool(3, 4)
    hashes = hashes_of(list(range(8)))
    table = pool.allocate(2)
    assert table is not None
    for block_id, block_hash in zip(table, hashes, strict=True):
        pool.register(block_id, block_hash)

    pool.unregister(table[1])
    assert pool.find_prefix(hashes) == table[:1]
    pool.check_invariants()
    pool.release(table)
    pool.unregister(table[0])
    pool.unregister(table[0])

    assert pool.find_prefix(hashes) == []
    assert pool.num_free_blocks == 3
    pool.check_invariants()


def test_allocation_is_all_or_nothing() -> None:
    pool = BlockPool(4, 4)
    held = pool.allocate(3)

    assert pool.allocate(2) is None
    assert pool.num_free_blocks == 1
    assert held is not None
    pool.release(held)
    assert pool.num_free_blocks == 4


def test_registered_blocks_are_found_after_release_until_they_are_evicted() -> None:
    pool = BlockPool(4, 4)
    hashes = hashes_of(list(range(8)))
    first = pool.allocate(2)
    assert first is not None
    for block_id, block_hash in zip(first, hashes, strict=True):
        pool.register(block_id, block_hash)
    pool.release(first)

    assert pool.find_prefix(hashes) == first
    assert pool.num_free_blocks == 4

    pool.allocate(3)  # two blank ones, then the least recently used: the tail of the chain

    assert pool.find_prefix(hashes) == first[:1]


def test_reused_blocks_that_are_free_count_against_the_free_ones() -> None:
    pool = BlockPool(3, 4)
    hashes = hashes_of(list(range(8)))
    table = pool.allocate(2)
    assert table is not None
    for block_id, block_hash in zip(table, hashes, strict=True):
        pool.register(block_id, block_hash)
    pool.release(table)

    assert pool.allocate(2, table) is None
    assert pool.allocate(1, table) == [*table, 2]
    pool.check_invariants()


def test_the_first_of_equal_blocks_stays_the_one_found() -> None:
    pool = BlockPool(2, 4)
    block_hash = hashes_of(list(range(4)))[0]
    table = pool.allocate(2)
    assert table is not None

    for block_id in table:
        pool.register(block_id, block_hash)

    assert pool.find_prefix([block_hash]) == table[:1]
    pool.release(table)
    pool.check_invariants()


def test_nothing_is_found_when_prefix_caching_is_off() -> None:
    pool = BlockPool(2, 4, enable_prefix_caching=False)
    block_hash = hashes_of(list(range(4)))[0]
    table = pool.allocate(1)
    assert table is not None

    pool.register(table[0], block_hash)

    assert pool.find_prefix([block_hash]) == []


def test_a_double_release_is_our_own_broken_invariant() -> None:
    pool = BlockPool(2, 4)
    table = pool.allocate(1)
    assert table is not None
    pool.release(table)

    with pytest.raises(AssertionError, match="released by nobody"):
        pool.release(table)


@settings(max_examples=100, stateful_step_count=60, deadline=None)
class PoolMachine(RuleBasedStateMachine):
    """Compares the pool with a plain model: a list of held tables, and what content each block was registered with."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(8, 2)
        self.tables: list[list[int]] = []
        self.content: dict[int, bytes] = {}

    @rule(tokens=st.lists(st.integers(0, 1), min_size=2, max_size=10), salt=st.sampled_from(["", "b"]))
    def allocate(self, tokens: list[int], salt: str) -> None:
        hashes = hashes_of(tokens, salt, block_size=2)
        reused = self.pool.find_prefix(hashes)
        num_free = self.pool.num_free_blocks
        for block_id, block_hash in zip(reused, hashes, strict=False):
            assert self.content[block_id] == block_hash

        table = self.pool.allocate(len(hashes) - len(reused), reused)

        if table is None:
            assert self.pool.num_free_blocks == num_free
            return
        assert table[: len(reused)] == reused
        held_elsewhere = {block_id for other in self.tables for block_id in other}
        assert not held_elsewhere & set(table[len(reused) :])
        for block_id, block_hash in zip(table, hashes, strict=True):
            self.content[block_id] = block_hash
            self.pool.register(block_id, block_hash)
        self.tables.append(table)

    @rule(data=st.data())
    def release(self, data: st.DataObject) -> None:
        if self.tables:
            self.pool.release(self.tables.pop(data.draw(st.integers(0, len(self.tables) - 1))))

    @rule(data=st.data())
    def fork(self, data: st.DataObject) -> None:
        if self.tables:
            table = self.tables[data.draw(st.integers(0, len(self.tables) - 1))]
            self.pool.share(table)
            self.tables.append(list(table))

    @invariant()
    def the_pool_agrees_with_the_tables(self) -> None:
        self.pool.check_invariants()
        held = {block_id for table in self.tables for block_id in table}
        assert self.pool.num_free_blocks == self.pool.num_blocks - len(held)

    def teardown(self) -> None:
        for table in self.tables:
            self.pool.release(table)
        assert self.pool.num_free_blocks == self.pool.num_blocks


TestPool = PoolMachine.TestCase

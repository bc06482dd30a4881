"""The index of prefixes, against a plain table of who was sent what; bounded; forgetful when told."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.balancing.prefix_index import PrefixIndex

REPLICAS = ["a", "b", "c", "d", "e"]
# Prefixes as paths in a small tree: a block's hash stands for all before it.
PREFIXES = st.lists(st.integers(0, 2), max_size=5).map(
    lambda path: [hash(tuple(path[: depth + 1])) for depth in range(len(path))]
)
SENT = st.lists(st.tuples(PREFIXES, st.sampled_from(REPLICAS)), max_size=30)


def filled(sent: list[tuple[list[int], str]]) -> PrefixIndex:
    index = PrefixIndex()
    for prefix, replica in sent:
        index.add(prefix, index.bit(replica))
    return index


@settings(deadline=None)
@given(sent=SENT, asked=PREFIXES, among=st.sets(st.sampled_from(REPLICAS)), gone=st.sets(st.sampled_from(REPLICAS)))
def test_longest_is_what_a_plain_table_says(
    sent: list[tuple[list[int], str]], asked: list[int], among: set[str], gone: set[str]
) -> None:
    index = filled(sent)
    index.retain(set(REPLICAS) - gone)
    among -= gone

    def shared(replica: str) -> int:
        lengths = [sum(block in prefix for block in asked) for prefix, to in sent if to == replica]
        return max(lengths, default=0)

    depth, holders = index.longest(asked, sum(index.bit(replica) for replica in among))
    expected = max((shared(replica) for replica in among), default=0)
    assert depth == expected
    assert {replica for replica in REPLICAS if index.bit(replica) & holders} == {
        replica for replica in among if depth and shared(replica) == depth
    }


@settings(deadline=None)
@given(sent=SENT, gone=st.sets(st.sampled_from(REPLICAS)))
def test_retain_leaves_no_block_that_nobody_holds(sent: list[tuple[list[int], str]], gone: set[str]) -> None:
    index = filled(sent)
    index.retain(set(REPLICAS) - gone)

    assert len(index) == len({block for prefix, replica in sent if replica not in gone for block in prefix})


def test_index_is_bounded_and_drops_the_least_recently_used_and_last_blocks_first() -> None:
    index = PrefixIndex(max_blocks=6)
    bit = index.bit("a")
    index.add([1, 2, 3], bit)
    index.add([11, 12, 13], bit)
    index.add([1, 2, 4], bit)

    assert len(index) == 6
    assert index.longest([1, 2, 3], bit) == (2, bit)
    assert index.longest([11, 12, 13], bit) == (3, bit)
    for number in range(100):
        index.add([1000 + number], bit)
        assert len(index) == 6


def test_bits_of_those_that_left_are_given_again() -> None:
    index = PrefixIndex()
    for life in range(1000):
        index.retain({"stays"})
        assert index.bit("stays") | index.bit(f"life-{life}") == 3

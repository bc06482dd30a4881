"""The order of candidates for a key: the same everywhere, even, and disturbed no more than it must be."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.balancing.members import SAMPLE, Members, hash_key

IDS = st.lists(st.text(max_size=8), min_size=1, max_size=40, unique=True)
KEYS = st.integers(-(2**70), 2**70)


@dataclass(eq=False)
class Replica:
    id: str
    load: float = 0.0
    in_flight: int = 0


def members(*replicas: Replica) -> Members:
    made = Members()
    made.follow(replicas)
    return made


def order_of_ids(ids: list[str], key: int) -> list[str]:
    return [ids[index] for index in members(*map(Replica, ids)).in_order(key)]


@settings(deadline=None)
@given(ids=IDS, key=KEYS, seed=st.integers())
def test_order_holds_all_and_does_not_depend_on_how_they_are_listed(ids: list[str], key: int, seed: int) -> None:
    shuffled = random.Random(seed).sample(ids, len(ids))

    assert sorted(order_of_ids(ids, key)) == sorted(ids)
    assert order_of_ids(ids, key) == order_of_ids(shuffled, key)


@settings(deadline=None)
@given(ids=IDS, key=KEYS)
def test_whoever_leaves_the_others_keep_their_order(ids: list[str], key: int) -> None:
    order = order_of_ids(ids, key)

    for left in ids[:5]:
        staying = [id for id in ids if id != left]
        assert not staying or order_of_ids(staying, key) == [id for id in order if id != left]


def test_keys_spread_evenly() -> None:
    made = members(*(Replica(f"r{number}") for number in range(10)))
    firsts = Counter(made.in_order(hash_key(str(key)))[0] for key in range(5000))

    assert all(400 <= firsts[index] <= 600 for index in range(10))


def test_order_is_the_same_in_every_process() -> None:
    assert order_of_ids(["a", "b", "c", "d", "e"], hash_key("a session")) == ["e", "c", "d", "a", "b"]


@settings(deadline=None)
@given(loads=st.lists(st.integers(0, 9), min_size=1, max_size=60), limit=st.integers(-1, 10), key=KEYS)
def test_first_below_is_the_first_of_the_order_that_is_not_above_the_limit(
    loads: list[int], limit: int, key: int
) -> None:
    made = members(*(Replica(str(number), load) for number, load in enumerate(loads)))
    found = made.first_below(limit, key)

    before = made.in_order(key)
    assert found is None or loads[found] <= limit
    assert all(loads[index] > limit for index in (before[:16] if found is None else before[: before.index(found)]))


def test_mean_is_exact_for_few_and_turns_over_many() -> None:
    few = members(*(Replica(str(load), load) for load in range(SAMPLE)))
    many = members(*(Replica(str(load), 1000 + load) for load in range(100)))

    assert few.mean_load() == sum(range(SAMPLE)) / SAMPLE
    assert sum(many.mean_load() for _ in range(25)) / 25 == 1000 + sum(range(100)) / 100


@pytest.mark.parametrize("count", [2, 3, 10])
def test_one_that_lies_about_its_load_makes_nobody_look_idle(count: int) -> None:
    honest = [Replica(str(number), 100.0) for number in range(count - 1)]

    assert members(*honest, Replica("liar", 1e9)).mean_load() <= 250.0


def test_change_of_candidates_is_seen_and_the_forgotten_are_new() -> None:
    one, other = Replica("a"), Replica("b")
    made = Members()

    assert made.follow([one, other])
    assert not made.follow([one, other])
    assert made.follow([other])
    made.retain({"b"})
    assert made.follow([other])

"""Prefix affinity: what it promises, and the known failures of others that it must not have."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.balancing import ANY, Request
from mesh.balancing.least_loaded import LeastLoaded
from mesh.balancing.prefix_affinity import PrefixAffinity
from tests.mesh.balancing.rig import Replica, prefix, replicas, send


def policy(seed: int = 1) -> PrefixAffinity:
    return PrefixAffinity(random.Random(seed))


@settings(deadline=None)
@given(loads=st.lists(st.integers(0, 99), min_size=1, max_size=20), seed=st.integers())
def test_without_a_prefix_it_chooses_as_least_loaded_does(loads: list[int], seed: int) -> None:
    candidates = [Replica(str(number), load) for number, load in enumerate(loads)]
    one, other = PrefixAffinity(random.Random(seed)), LeastLoaded(random.Random(seed))

    assert [one.pick(candidates, ANY) for _ in range(20)] == [other.pick(candidates, ANY) for _ in range(20)]


def test_a_conversation_stays_where_it_began_as_it_grows() -> None:
    candidates, chooser = replicas(16), policy()
    said = prefix(0)
    first = send(chooser, candidates, Request(said))

    for turn in range(1, 20):
        said = prefix(turn, num_blocks=2, after=said)
        assert send(chooser, candidates, Request(said)) is first
        first.load = 0.0  # it has answered


def test_it_leaves_a_replica_that_is_much_busier_than_the_others_and_comes_back() -> None:
    candidates, chooser = replicas(8), policy()
    said = Request(prefix(0), cost=100.0)
    first = send(chooser, candidates, said)
    for replica in candidates:
        replica.load = 1000.0

    first.load = 1500.0
    assert candidates[chooser.pick(candidates, said)] is first
    first.load = 9000.0
    assert candidates[chooser.pick(candidates, said)] is not first


def test_cold_prompts_spread() -> None:
    candidates, chooser = replicas(16), policy()
    for number in range(3200):
        send(chooser, candidates, Request(prefix(number)))

    assert max(replica.load for replica in candidates) <= 1.3 * 200
    assert min(replica.load for replica in candidates) >= 0.5 * 200


def test_cold_prompts_go_by_load_where_nothing_is_shared_and_spread_by_their_text_where_it_is() -> None:
    candidates, chooser = replicas(12), policy()
    for replica in candidates:
        replica.load = 100.0
    candidates[5].load = 50.0
    number = 0

    def cold_places(count: int) -> set[int]:
        nonlocal number
        number += count
        return {chooser.pick(candidates, Request(prefix(one))) for one in range(number - count, number)}

    assert len(cold_places(40)) > 6
    cold_places(500)
    assert cold_places(40) == {5}
    for _ in range(500):
        chooser.pick(candidates, Request(prefix(-1)))
    assert len(cold_places(40)) > 6


@pytest.mark.parametrize("num_replicas", [2, 8, 64])
def test_a_burst_of_one_prompt_spreads_before_the_first_is_answered(num_replicas: int) -> None:
    candidates, chooser = replicas(num_replicas), policy()
    for _ in range(100 * num_replicas):
        send(chooser, candidates, Request(prefix(0)))

    # Twice the mean; of more than 16 replicas, the mean of some of them.
    assert max(replica.load for replica in candidates) <= 2.4 * 100


def test_conversations_of_one_popular_text_spread_and_each_stays_in_its_place() -> None:
    candidates, chooser = replicas(16), policy()
    shared = prefix(999, num_blocks=12)
    places = {number: send(chooser, candidates, Request(prefix(number, after=shared))) for number in range(800)}

    assert max(replica.load for replica in candidates) <= 2.0 * 50 + 3
    moved = [
        number
        for number, place in places.items()
        if candidates[chooser.pick(candidates, Request(prefix(number, after=shared)))] is not place
    ]
    assert moved == []


def test_affinity_survives_that_another_replica_comes_or_goes() -> None:
    candidates, chooser = replicas(10), policy()
    places = {number: send(chooser, candidates, Request(prefix(number))) for number in range(300)}
    left = candidates.pop(3)
    joined = Replica("new")
    chooser.retain({replica.id for replica in [*candidates, joined]})
    candidates.insert(0, joined)
    joined.load = left.load

    for number, place in places.items():
        now = candidates[chooser.pick(candidates, Request(prefix(number)))]
        assert now is place or place is left


def test_a_replica_that_left_is_forgotten_even_when_one_of_its_name_comes_back() -> None:
    candidates, chooser = replicas(4), policy()
    said = Request(prefix(0))
    home = send(chooser, candidates, said)
    others = [replica for replica in candidates if replica is not home]
    chooser.retain({replica.id for replica in others})
    elsewhere = send(chooser, others, said)

    back = Replica(home.id)
    assert send(chooser, [back, *others], said) is elsewhere


def test_gateways_that_do_not_see_each_other_place_prompts_alike() -> None:
    candidates = replicas(16)
    gateways = [policy(seed) for seed in range(4)]
    shared = [prefix(1000 + number, num_blocks=8) for number in range(40)]
    rng, agreed = random.Random(5), Counter[bool]()
    for number in range(400):
        request = Request(prefix(number, after=rng.choice(shared)))
        places = [candidates[gateway.pick(candidates, request)] for gateway in gateways]
        places[0].load += 1.0
        agreed[len(set(places)) == 1] += 1

    assert agreed[True] >= 0.9 * 400


@settings(deadline=None)
@given(
    blocks=st.lists(st.integers(-(2**80), 2**80), max_size=100),
    loads=st.lists(st.floats(), min_size=1, max_size=20),
    cost=st.floats(),
    seed=st.integers(),
)
def test_nothing_makes_it_raise(blocks: list[int], loads: list[float], cost: float, seed: int) -> None:
    candidates = [Replica(str(number % 7), load) for number, load in enumerate(loads)]
    chooser = policy(seed)

    for _ in range(3):
        assert 0 <= chooser.pick(candidates, Request(blocks, cost=cost)) < len(candidates)
        chooser.retain({"0", "1"})

"""Every policy of the table, against what each must hold; and ejection, against its three promises."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.balancing import ANY, POLICIES, make_policy
from mesh.balancing.ejection import LONGEST_EJECTION_S, Outlier, admitted
from mesh.balancing.least_loaded import LeastLoaded
from mesh.balancing.round_robin import RoundRobin
from mesh.errors import NotFound


@dataclass
class Replica:
    id: str = "r"
    in_flight: int = 0
    outlier: Outlier = field(default_factory=Outlier)

    @property
    def load(self) -> float:
        return float(self.in_flight)


def replicas(loads: list[int]) -> list[Replica]:
    return [Replica(f"r{number}", load) for number, load in enumerate(loads)]


@pytest.mark.parametrize("name", POLICIES)
@given(loads=st.lists(st.integers(0, 1000), min_size=1, max_size=40), seed=st.integers())
def test_pick_is_always_a_candidate(name: str, loads: list[int], seed: int) -> None:
    policy = make_policy(name, random.Random(seed))

    assert all(0 <= policy.pick(replicas(loads), ANY) < len(loads) for _ in range(5))


@pytest.mark.parametrize("name", POLICIES)
def test_every_candidate_gets_its_share_when_all_are_equal(name: str) -> None:
    policy = make_policy(name, random.Random(5))
    counts = Counter(policy.pick(replicas([0] * 8), ANY) for _ in range(8_000))

    assert all(800 <= counts[index] <= 1200 for index in range(8))


def test_unknown_policy_lists_the_known() -> None:
    with pytest.raises(NotFound, match="consistent_hash, least_loaded, prefix_affinity, round_robin"):
        make_policy("best", random.Random(0))


@given(loads=st.lists(st.integers(0, 50), min_size=2, max_size=2, unique=True), seed=st.integers())
def test_least_loaded_of_two_is_the_one_with_less(loads: list[int], seed: int) -> None:
    assert LeastLoaded(random.Random(seed)).pick(replicas(loads), ANY) == loads.index(min(loads))


@given(count=st.integers(2, 30), seed=st.integers())
def test_least_loaded_never_picks_the_only_worst(count: int, seed: int) -> None:
    loads = [1] * (count - 1) + [2]

    assert LeastLoaded(random.Random(seed)).pick(replicas(loads), ANY) != count - 1


def test_least_loaded_keeps_a_burst_even() -> None:
    policy, held = LeastLoaded(random.Random(1)), replicas([0] * 10)
    for _ in range(10_000):
        held[policy.pick(held, ANY)].in_flight += 1

    # Two choices keep the maximum within ln ln n of the mean; one choice would be about 100 off here.
    assert max(replica.in_flight for replica in held) - 1000 <= 6


@given(count=st.integers(1, 20), turns=st.integers(1, 5), seed=st.integers())
def test_round_robin_visits_all_equally(count: int, turns: int, seed: int) -> None:
    policy = RoundRobin(random.Random(seed))
    counts = Counter(policy.pick(replicas([0] * count), ANY) for _ in range(count * turns))

    assert set(counts.values()) == {turns}


def test_ejections_double_up_to_the_longest() -> None:
    outlier, now, lengths = Outlier(), 0.0, []
    for _ in range(8):
        assert outlier.failed(now)
        lengths.append(outlier.ejected_until - now)
        now = outlier.ejected_until

    assert lengths == [1, 2, 4, 8, 16, 30, 30, 30]
    assert LONGEST_EJECTION_S == 30


def test_failures_together_eject_once() -> None:
    outlier = Outlier()

    assert [outlier.failed(5.0) for _ in range(50)] == [True] + [False] * 49
    assert outlier.ejected_until == 6.0


def test_after_an_ejection_one_request_tries_until_one_succeeds() -> None:
    outlier = Outlier()
    outlier.failed(0.0)

    assert not outlier.admits(0.5, in_flight=0)
    assert outlier.admits(1.0, in_flight=0)
    assert not outlier.admits(1.0, in_flight=1)
    outlier.succeeded()
    assert outlier.admits(1.0, in_flight=7)


@given(
    failures=st.lists(st.integers(0, 6), min_size=1, max_size=12),
    loads=st.lists(st.integers(0, 3), min_size=12, max_size=12),
    now=st.floats(0, 100),
)
def test_never_more_than_half_are_out_and_never_the_only_one(failures: list[int], loads: list[int], now: float) -> None:
    candidates = replicas(loads[: len(failures)])
    for candidate, count in zip(candidates, failures, strict=True):
        at = 0.0
        for _ in range(count):
            candidate.outlier.failed(at)
            at = candidate.outlier.ejected_until

    inside = admitted(candidates, now)

    assert len(inside) >= len(candidates) - len(candidates) // 2
    assert len({replica.id for replica in inside}) == len(inside)
    assert {r.id for r in candidates if r.outlier.admits(now, r.in_flight)} <= {r.id for r in inside}

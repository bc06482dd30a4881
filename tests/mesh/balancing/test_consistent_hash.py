"""One key, one replica, while it has room; whoever else comes or goes."""

from __future__ import annotations

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.balancing import ANY, Request
from mesh.balancing.consistent_hash import BOUND, ConsistentHash
from tests.mesh.balancing.rig import Replica, replicas, send


def policy(seed: int = 1) -> ConsistentHash:
    return ConsistentHash(random.Random(seed))


@settings(deadline=None)
@given(keys=st.lists(st.text(min_size=1), min_size=1, max_size=30), count=st.integers(1, 30))
def test_gateways_agree_on_every_key(keys: list[str], count: int) -> None:
    candidates = replicas(count)
    one, other = policy(1), policy(2)

    for key in keys:
        request = Request(key=key)
        assert one.pick(candidates, request) == other.pick(candidates, request) == one.pick(candidates, request)


def test_a_replica_that_leaves_moves_only_its_own_keys() -> None:
    candidates = replicas(10)
    keys = [Request(key=str(number)) for number in range(1000)]
    before = [candidates[policy().pick(candidates, key)] for key in keys]

    left = candidates.pop(4)
    after = [candidates[policy().pick(candidates, key)] for key in keys]

    assert all(now is then for now, then in zip(after, before, strict=True) if then is not left)
    assert len({now.id for now, then in zip(after, before, strict=True) if then is left}) == 9


def test_one_hot_key_overflows_in_a_fixed_order_and_keeps_the_bound() -> None:
    candidates, chooser = replicas(8), policy()
    request = Request(key="hot")
    for number in range(800):
        replica = send(chooser, candidates, request)
        mean = number / 8
        assert replica.load <= BOUND * mean + 2

    used = [replica for replica in candidates if replica.load]
    assert len(used) == 7  # seven of the eight are enough at a quarter above the mean


def test_without_a_key_the_first_block_decides_and_without_that_load() -> None:
    candidates, chooser = replicas(8), policy()
    firsts = {chooser.pick(candidates, Request(prefix=[99, other])) for other in range(50)}
    for busy in candidates[1:]:
        busy.load = 5.0
    picked = [chooser.pick([candidates[0], candidates[1]], ANY) for _ in range(20)]

    assert len(firsts) == 1
    assert set(picked) == {0}


def test_all_above_the_limit_is_no_dead_end() -> None:
    # Loads may change while they are read; no limit holds for a load that is not a number.
    candidates = [Replica("a", float("nan")), Replica("b", float("inf"))]

    assert policy().pick(candidates, Request(key="k")) in (0, 1)

"""The fair queue, beside a slow model of it, and what it promises to tenants."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.fair_queue import Entry, FairQueue

TENANTS = st.sampled_from(["a", "b", "c", "d"])
PUSH = st.tuples(st.just("push"), TENANTS, st.integers(-2, 2), st.sampled_from([0.5, 1.0, 3.0]))
STEPS = st.lists(
    st.one_of(PUSH, st.tuples(st.just("pop")), st.tuples(st.just("remove"), st.integers(0, 99))), max_size=120
)


def taken(queue: FairQueue[Any]) -> list[Any]:
    return [queue.pop().item for _ in range(len(queue))]


@given(steps=STEPS, capacity=st.integers(0, 12))
def test_nothing_is_lost_doubled_or_taken_before_a_higher_priority_or_an_elder_of_its_tenant(
    steps: list[tuple[Any, ...]], capacity: int
) -> None:
    queue: FairQueue[int] = FairQueue(capacity)
    waiting: list[Entry[int]] = []
    for number, step in enumerate(steps):
        if step[0] == "push":
            entry = Entry(number, *step[1:])
            loser = queue.push(entry)
            waiting.append(entry)
            if loser is not None:
                assert len(waiting) == capacity + 1
                assert loser.priority == min(other.priority for other in waiting)
                waiting.remove(loser)
        elif step[0] == "pop" and waiting:
            entry = queue.first()
            assert queue.pop() is entry
            assert entry.priority == max(other.priority for other in waiting)
            first = next(o for o in waiting if (o.tenant, o.priority) == (entry.tenant, entry.priority))
            assert entry is first
            waiting.remove(entry)
        elif step[0] == "remove" and waiting:
            entry = waiting.pop(step[1] % len(waiting))
            assert queue.remove(entry)
            assert not queue.remove(entry)
        assert len(queue) == len(waiting) <= capacity
        assert set(map(id, queue.entries())) == set(map(id, waiting))
    with pytest.raises(IndexError):
        for _ in range(len(waiting) + 1):
            queue.pop()


@given(costs=st.dictionaries(TENANTS, st.lists(st.sampled_from([1.0, 2.0, 5.0]), min_size=20, max_size=40), min_size=2))
def test_tenants_that_wait_get_equal_shares_of_what_is_served(costs: dict[str, list[float]]) -> None:
    queue: FairQueue[None] = FairQueue(1000)
    for tenant, sizes in costs.items():
        for cost in sizes:
            queue.push(Entry(None, tenant, 0, cost))
    left = {tenant: len(sizes) for tenant, sizes in costs.items()}
    served = dict.fromkeys(costs, 0.0)
    while all(left.values()):
        entry = queue.pop()
        left[entry.tenant] -= 1
        served[entry.tenant] += entry.cost
        # Golestani (1994): two that both wait are never further apart than one largest request of each.
        assert max(served.values()) - min(served.values()) <= 5.0 + 5.0


def test_a_tenant_with_a_thousand_waiting_delays_another_by_one_request() -> None:
    queue: FairQueue[str] = FairQueue(2000)
    for number in range(1000):
        queue.push(Entry(f"many-{number}", "many"))
    for _ in range(10):
        queue.pop()
    queue.push(Entry("one", "few"))

    assert "one" in [queue.pop().item for _ in range(2)]


def test_new_names_all_the_time_do_not_starve_a_tenant_that_waits() -> None:
    queue: FairQueue[str] = FairQueue(100)
    queue.push(Entry("old-0", "old"))
    queue.push(Entry("old-1", "old"))
    order = []
    for number in range(10):
        queue.push(Entry(f"new-{number}", f"new-{number}"))
        order.append(queue.pop().item)

    assert order.index("old-1") <= 4


def test_one_that_asks_again_and_again_gets_no_more_than_one_that_waits() -> None:
    queue: FairQueue[str] = FairQueue(100)
    for _ in range(50):
        queue.push(Entry("steady", "steady"))
    queue.push(Entry("eager", "eager"))
    order = []
    for _ in range(40):
        order.append(queue.pop().item)
        if order[-1] == "eager":
            queue.push(Entry("eager", "eager"))

    assert 19 <= order.count("eager") <= 21


def test_a_full_queue_takes_a_tenant_that_has_less_and_drops_the_last_of_who_has_most() -> None:
    queue: FairQueue[str] = FairQueue(4)
    for number in range(4):
        queue.push(Entry(f"many-{number}", "many"))

    loser = queue.push(Entry("one", "few"))
    assert loser is not None
    assert loser.item == "many-3"
    own = Entry("many-4", "many")
    assert queue.push(own) is own
    assert sorted(taken(queue)) == ["many-0", "many-1", "many-2", "one"]


def test_a_full_queue_gives_a_place_to_a_higher_priority_only() -> None:
    queue: FairQueue[str] = FairQueue(2)
    queue.push(Entry("a", "t", 0))
    queue.push(Entry("b", "t", 0))

    low = Entry("low", "u", -1)
    assert queue.push(low) is low
    loser = queue.push(Entry("high", "t", 1))
    assert loser is not None
    assert loser.item == "b"
    assert taken(queue) == ["high", "a"]


def test_what_has_left_leaves_nothing_behind() -> None:
    queue: FairQueue[int] = FairQueue(100)
    queue.push(Entry(0, "stays"))
    for number in range(10_000):
        entry = Entry(number, "comes and goes", number % 3)
        queue.push(entry)
        queue.remove(entry)

    assert len(queue) == 1
    assert sum(len(level._due) for level in queue._levels.values()) < 50

"""Leases against a plain reference, on a clock of the test's own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import InvalidInput, NotFound, Overloaded
from mesh.v1.registry_pb2 import SERVICE_KIND_PREDICTOR, Replica, ServedModel
from registry.leases import TICK_S, Leases


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def replica(id_: str = "r1", address: str = "h:1") -> Replica:
    return Replica(id=id_, kind=SERVICE_KIND_PREDICTOR, address=address)


IDS = st.sampled_from(["r1", "r2", "r3", "r4"])
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("announce"), IDS, st.sampled_from(["h:1", "h:2", "h:3", "h:4"]), st.integers(1, 5)),
        st.tuples(st.just("renew"), IDS),
        st.tuples(st.just("withdraw"), IDS),
        st.tuples(st.just("tick"), st.integers(1, 12)),
    ),
    max_size=60,
)


@given(steps=STEPS)
def test_leases_are_what_the_reference_says(steps: list[tuple[object, ...]]) -> None:
    clock = Clock()
    leases = Leases(clock)
    alive: dict[str, tuple[str, int, float]] = {}  # id → address, lease, end
    for step in steps:
        match step:
            case ("announce", str(id_), str(address), int(lease_s)):
                announced = leases.announce(replica(id_, address), lease_s)
                assert set(announced.replaced) == {i for i, (a, _, _) in alive.items() if a == address and i != id_}
                assert announced.is_change == (id_ not in alive or alive[id_][0] != address)
                alive = {i: entry for i, entry in alive.items() if i not in announced.replaced}
                alive[id_] = (address, lease_s, clock.now + lease_s)
            case ("renew", str(id_)):
                if id_ in alive:
                    address, lease_s, _ = alive[id_]
                    assert leases.renew(id_) == lease_s
                    alive[id_] = (address, lease_s, clock.now + lease_s)
                else:
                    with pytest.raises(NotFound):
                        leases.renew(id_)
            case ("withdraw", str(id_)):
                assert leases.withdraw(id_) == (alive.pop(id_, None) is not None)
            case ("tick", int(count)):
                for _ in range(count):
                    clock.now += TICK_S
                    ended = {i for i, (_, _, end) in alive.items() if end <= clock.now}
                    assert set(leases.expire()) == ended
                    alive = {i: entry for i, entry in alive.items() if i not in ended}
        assert len(leases) == len(alive)


@given(stopped_s=st.floats(2, 1000))
def test_time_in_which_the_registry_was_stopped_ends_no_lease(stopped_s: float) -> None:
    clock = Clock()
    leases = Leases(clock)
    leases.announce(replica(), 5)
    clock.now += stopped_s

    assert leases.expire() == []
    for _ in range(16):  # four of its five seconds
        clock.now += TICK_S
        assert leases.expire() == []
    for _ in range(5):
        clock.now += TICK_S
        leases.expire()
    assert len(leases) == 0


def test_zero_means_the_default_lease() -> None:
    assert Leases(Clock(), default_lease_s=7).announce(replica(), 0).lease_s == 7


def test_announcing_other_models_is_a_change() -> None:
    leases = Leases(Clock())
    leases.announce(replica(), 5)
    changed = replica()
    changed.models.append(ServedModel(name="iris", version="1", ready=True))

    assert not leases.announce(replica(), 5).is_change
    assert leases.announce(changed, 5).is_change


@pytest.mark.parametrize("lease_s", [-1, 0.99, 300.01, float("nan"), float("inf")])
def test_lease_out_of_range_is_refused(lease_s: float) -> None:
    with pytest.raises(InvalidInput, match=r"lease_s is .*; it must be 1\.\.300"):
        Leases(Clock()).announce(replica(), lease_s)


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        (Replica(), "replica.id"),
        (replica(id_="a b"), "replica.id"),
        (replica(id_="x" * 129), "replica.id"),
        (Replica(id="r1", address="h:1"), "replica.kind"),
        (Replica(id="r1", kind=77, address="h:1"), "replica.kind"),  # type: ignore[arg-type]
        (replica(address="h"), "replica.address"),
        (Replica(id="r1", kind=SERVICE_KIND_PREDICTOR, address="h:1", metrics_address="x"), "replica.metrics_address"),
        (
            Replica(id="r1", kind=SERVICE_KIND_PREDICTOR, address="h:1", models=[ServedModel(name="A", version="1")]),
            "replica.models.name",
        ),
    ],
)
def test_wrong_replica_is_refused_by_field(wrong: Replica, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        Leases(Clock()).announce(wrong, 5)

    assert caught.value.field == field


def test_one_replica_too_many_is_refused() -> None:
    leases = Leases(Clock(), max_replicas=1)
    leases.announce(replica("r1", "h:1"), 5)
    with pytest.raises(Overloaded):
        leases.announce(replica("r2", "h:2"), 5)

    assert not leases.announce(replica("r1", "h:1"), 5).is_change

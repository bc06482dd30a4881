"""A view is what its events add up to: checked against a plain dict."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mesh.v1.registry_pb2 import SERVICE_KIND_PREDICTOR, Deployment, MeshSnapshot, Replica, WatchResponse
from mesh.view import MeshView

IDS = st.sampled_from(["r1", "r2", "r3", "r4"])
ADDRESSES = st.sampled_from(["h:1", "h:2", "h:3"])
EVENTS = st.one_of(
    st.builds(lambda id_, address: WatchResponse(replica_announced=Replica(id=id_, address=address)), IDS, ADDRESSES),
    IDS.map(lambda id_: WatchResponse(replica_left=id_)),
    st.builds(
        lambda name, n: WatchResponse(deployment_applied=Deployment(name=name, generation=n)), IDS, st.integers(1, 9)
    ),
    IDS.map(lambda name: WatchResponse(deployment_deleted=name)),
)


def reference(events: list[WatchResponse]) -> tuple[dict[str, str], dict[str, int]]:
    replicas: dict[str, str] = {}
    deployments: dict[str, int] = {}
    for event in events:
        if event.HasField("replica_announced"):
            announced = event.replica_announced
            replicas = {i: a for i, a in replicas.items() if a != announced.address}
            replicas[announced.id] = announced.address
        elif event.HasField("replica_left"):
            replicas.pop(event.replica_left, None)
        elif event.HasField("deployment_applied"):
            deployments[event.deployment_applied.name] = event.deployment_applied.generation
        else:
            deployments.pop(event.deployment_deleted, None)
    return replicas, deployments


@given(events=st.lists(EVENTS, max_size=30))
def test_events_add_up(events: list[WatchResponse]) -> None:
    view = MeshView()
    for event in events:
        view = view.with_event(event)
    replicas, deployments = reference(events)

    assert {id_: replica.address for id_, replica in view.replicas.items()} == replicas
    assert {name: deployment.generation for name, deployment in view.deployments.items()} == deployments


@given(before=st.lists(EVENTS, max_size=15), after=st.lists(EVENTS, max_size=15), doubts=st.booleans())
def test_snapshot_replaces_but_for_what_is_doubted(
    before: list[WatchResponse], after: list[WatchResponse], doubts: bool
) -> None:
    old, new = MeshView(), MeshView()
    for event in before:
        old = old.with_event(event)
    for event in after:
        new = new.with_event(event)

    view = old.with_snapshot(new.snapshot(), frozenset(old.replicas) if doubts else frozenset())

    addresses = [replica.address for replica in view.replicas.values()]
    assert len(set(addresses)) == len(addresses)
    assert set(view.replicas) == set(new.replicas) | view.in_doubt
    assert view.in_doubt <= set(old.replicas) - set(new.replicas)
    assert doubts or not view.in_doubt
    assert dict(view.deployments) == dict(new.deployments)


def test_view_is_a_value() -> None:
    view = MeshView().with_event(WatchResponse(replica_announced=Replica(id="r1", address="h:1")))
    view.with_event(WatchResponse(replica_left="r1"))

    assert set(view.replicas) == {"r1"}


def test_replicas_of_a_kind() -> None:
    predictor = Replica(id="r1", kind=SERVICE_KIND_PREDICTOR, address="h:1")
    view = MeshView().with_snapshot(MeshSnapshot(replicas=[predictor, Replica(id="r2", address="h:2")]))

    assert [replica.id for replica in view.replicas_of(SERVICE_KIND_PREDICTOR)] == ["r1"]

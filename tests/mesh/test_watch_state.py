"""What a follower knows is what the registry said, whatever it is told: held against the registry's true history."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.v1.registry_pb2 import Deployment, MeshSnapshot, Replica, ServedModel, WatchResponse
from mesh.view import MeshView
from mesh.watch_state import Taken, WatchState
from registry.watch import WatchLog

NAMES = st.sampled_from(["a", "b", "c", "d"])
PORTS = st.integers(1, 5)
CHANGES = st.one_of(
    st.tuples(st.just("come"), NAMES, PORTS),
    st.tuples(st.just("go"), NAMES, PORTS),
    st.tuples(st.just("apply"), NAMES, PORTS),
    st.tuples(st.just("delete"), NAMES, PORTS),
)
# What happens to the stream and to the registry between changes. "deliver" n messages, of which the network may lose
# or double one: what no stream does, and what must yet do no harm.
TROUBLES = st.one_of(
    st.tuples(st.sampled_from(["deliver"]), st.integers(1, 9)),
    st.tuples(st.sampled_from(["disconnect", "restart", "lose", "double", "save and restore"])),
)
STEPS = st.lists(st.one_of(CHANGES, TROUBLES), max_size=60)


def event(kind: str, name: str, number: int) -> WatchResponse:
    match kind:
        case "come":
            models = [ServedModel(name="m", version=str(number))]
            return WatchResponse(replica_announced=Replica(id=name, address=f"h:{number}", models=models))
        case "go":
            return WatchResponse(replica_left=name)
        case "apply":
            return WatchResponse(deployment_applied=Deployment(name=name, generation=number))
        case _:
            return WatchResponse(deployment_deleted=name)


class Registry:
    """The registry's own log, what was true after each of its events, and the stream of one follower."""

    def __init__(self, history_events: int) -> None:
        self._history_events = history_events
        self._epochs = count(1)
        self.truth: dict[tuple[str, int], MeshView] = {}
        self.begin(())

    def begin(self, deployments: tuple[Deployment, ...]) -> None:
        """Start anew: deployments are durable, leases are not."""
        self._epoch = f"e{next(self._epochs)}"
        self.log = WatchLog(self._epoch, deployments, self._history_events)
        self._note()

    def publish(self, change: WatchResponse) -> None:
        self.log.publish(change)
        self._note()

    def _note(self) -> None:
        self.truth[self._epoch, self.log.revision] = self.log.view


class Follower:
    """Reads the registry's stream as mesh.discovery does, and checks after each message that it knows what was true."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.state = WatchState()
        self._at: tuple[int, str] | None = None
        self.known = ("", 0)

    def disconnect(self) -> None:
        self._at = None

    def deliver(self, trouble: str = "") -> bool:
        """The next message of the stream; False when there is none. trouble: the message is lost, or comes twice."""
        at = self.state.position() if self._at is None else self._at
        message = self._registry.log.next_after(*at)
        if message is None:
            return False
        self._at = message.revision, message.epoch
        for _ in range({"lose": 0, "double": 2}.get(trouble, 1)):
            if self.state.take(message) is not Taken.ACCEPTED:
                self.disconnect()
                break
            self.check(message)
        return True

    def check(self, message: WatchResponse) -> None:
        epoch, revision = message.epoch, self.state.revision
        before, self.known = self.known, (epoch, revision)
        if not message.HasField("snapshot"):
            assert self.known in (before, (before[0], before[1] + 1)), "an event was missed, or taken twice"
        elif before[0] == epoch:
            assert revision >= before[1], "the past came back"
        true, view = self._registry.truth[epoch, revision], self.state.view
        assert dict(view.deployments) == dict(true.deployments)
        certain = {id_: replica for id_, replica in view.replicas.items() if id_ not in view.in_doubt}
        assert certain == dict(true.replicas)


@settings(max_examples=200)
@given(steps=STEPS, history=st.integers(1, 6))
def test_each_view_is_one_that_the_registry_had_and_the_last_is_its_last(
    steps: list[tuple[str, ...]], history: int
) -> None:
    registry = Registry(history)
    follower = Follower(registry)
    for step in steps:
        match step:
            case "deliver", times:
                for _ in range(int(times)):
                    follower.deliver()
            case ("lose",) | ("double",):
                follower.deliver(step[0])
            case ("disconnect",):
                follower.disconnect()
            case ("restart",):
                registry.begin(tuple(registry.log.view.deployments.values()))
                follower.disconnect()
            case ("save and restore",):
                saved, follower.state = follower.state.saved(), WatchState()
                follower.state.restore(saved)
                follower.disconnect()
            case kind, name, number:
                registry.publish(event(kind, name, int(number)))
    follower.disconnect()
    while follower.deliver():
        pass
    follower.state.give_up_doubted()

    assert dict(follower.state.view.replicas) == dict(registry.log.view.replicas)
    assert dict(follower.state.view.deployments) == dict(registry.log.view.deployments)


@given(changes=st.lists(CHANGES, min_size=1, max_size=20), more=st.lists(CHANGES, max_size=8), data=st.data())
def test_a_registry_that_is_set_back_takes_nothing_away_until_it_is_believed(
    changes: list[tuple[str, str, int]], more: list[tuple[str, str, int]], data: st.DataObject
) -> None:
    registry = Registry(100)
    follower = Follower(registry)
    checkpoint = data.draw(st.integers(0, len(changes) - 1))
    earlier = WatchLog("e1")
    for number, change in enumerate(changes):
        registry.publish(event(*change))
        if number < checkpoint:
            earlier.publish(event(*change))
    while follower.deliver():
        pass
    known, seen = follower.state.view, follower.state.revision
    # The registry goes on from the checkpoint, but not as far as it had come.
    for change in more[: seen - earlier.revision - 1]:
        earlier.publish(event(*change))
    past = earlier.next_after(0, "")
    assert past is not None and past.revision < seen

    assert follower.state.take(past) is Taken.STALE
    assert follower.state.view is known
    assert follower.state.position() == (0, "")

    follower.state.forget_position()
    assert follower.state.take(past) is Taken.ACCEPTED
    view = follower.state.view
    assert dict(view.deployments) == dict(earlier.view.deployments)
    assert {id_: view.replicas[id_] for id_ in earlier.view.replicas} == dict(earlier.view.replicas)
    taken_addresses = {replica.address for replica in earlier.view.replicas.values()}
    for id_, replica in known.replicas.items():
        assert id_ in view.replicas or replica.address in taken_addresses


def snapshot(revision: int, *ids: str, epoch: str = "e1") -> WatchResponse:
    replicas = [Replica(id=id_, address=f"{id_}:1") for id_ in ids]
    return WatchResponse(revision=revision, epoch=epoch, snapshot=MeshSnapshot(replicas=replicas))


def come(revision: int, id_: str, epoch: str = "e1") -> WatchResponse:
    return WatchResponse(revision=revision, epoch=epoch, replica_announced=Replica(id=id_, address=f"{id_}:1"))


def state_after(*messages: WatchResponse) -> WatchState:
    state = WatchState()
    for message in messages:
        assert state.take(message) is Taken.ACCEPTED
    return state


def test_nothing_known_asks_for_a_snapshot_and_takes_nothing_else() -> None:
    state = WatchState()

    assert state.position() == (0, "")
    assert state.take(come(1, "a", epoch="")) is Taken.GAP
    assert not state.view.replicas


def test_the_position_is_after_what_was_seen() -> None:
    assert state_after(snapshot(5, "a"), come(6, "b")).position() == (6, "e1")


@pytest.mark.parametrize("message", [come(8, "c"), come(7, "c", epoch="e2")])
def test_a_gap_and_another_epoch_s_event_change_nothing_and_want_a_snapshot(message: WatchResponse) -> None:
    state = state_after(snapshot(5, "a"), come(6, "b"))

    assert state.take(message) is Taken.GAP
    assert set(state.view.replicas) == {"a", "b"}
    assert state.position() == (0, "")


def test_doubt_outlives_the_process() -> None:
    state = state_after(snapshot(5, "a"), snapshot(1, "b", epoch="e2"))
    assert state.view.in_doubt == {"a"}
    restored = WatchState()
    restored.restore(state.saved())

    assert restored.take(snapshot(1, "b", epoch="e2")) is Taken.ACCEPTED

    assert set(restored.view.replicas) == {"a", "b"}
    assert restored.view.in_doubt == {"a"}


def test_a_restored_view_is_not_set_back_by_its_own_epoch() -> None:
    restored = WatchState()
    restored.restore(state_after(snapshot(5, "a")).saved())

    assert restored.take(snapshot(4, "b")) is Taken.STALE
    assert restored.take(snapshot(5)) is Taken.ACCEPTED
    assert not restored.view.replicas


@pytest.mark.parametrize("confirm", [lambda s: s.take(come(2, "a", epoch="e2")), lambda s: s.give_up_doubted()])
def test_doubt_ends_by_an_announcement_or_by_giving_up(confirm: Callable[[WatchState], object]) -> None:
    state = state_after(snapshot(5, "a"), snapshot(1, epoch="e2"))
    assert state.position() == (0, "")

    confirm(state)

    assert not state.view.in_doubt
    assert state.position()[1] == "e2"

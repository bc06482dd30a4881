"""No watcher misses an event, sees one twice, or can make the registry's memory grow."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.errors import Overloaded, Unavailable
from mesh.testing import eventually
from mesh.v1.registry_pb2 import Deployment, Replica, WatchResponse
from mesh.view import MeshView
from registry.watch import WatchLog

IDS = st.sampled_from(["r1", "r2", "r3"])
CHANGES = st.one_of(
    IDS.map(lambda id_: ("come", id_)), IDS.map(lambda id_: ("go", id_)), IDS.map(lambda id_: ("apply", id_))
)
# Which of three watchers reads how many messages, between changes.
READS = st.tuples(st.just("read"), st.integers(0, 2), st.integers(1, 6))


def event(kind: str, name: str) -> WatchResponse:
    if kind == "come":
        return WatchResponse(replica_announced=Replica(id=name, address=f"{name}:1"))
    if kind == "go":
        return WatchResponse(replica_left=name)
    return WatchResponse(deployment_applied=Deployment(name=name))


class Watcher:
    """What a client of the protocol knows."""

    def __init__(self) -> None:
        self.revision, self.epoch, self.view, self.num_snapshots = 0, "", MeshView(), 0

    def read(self, log: WatchLog) -> bool:
        message = log.next_after(self.revision, self.epoch)
        if message is None:
            return False
        if message.HasField("snapshot"):
            self.view, self.num_snapshots = self.view.with_snapshot(message.snapshot), self.num_snapshots + 1
        else:
            assert message.revision == self.revision + 1
            self.view = self.view.with_event(message)
        self.revision, self.epoch = message.revision, message.epoch
        return True


@given(steps=st.lists(st.one_of(CHANGES, READS), max_size=80), history=st.integers(1, 8))
def test_every_watcher_ends_with_the_state_whatever_its_pace(steps: list[tuple[str, ...]], history: int) -> None:
    log = WatchLog("e1", [Deployment(name="first")], history_events=history)
    watchers = [Watcher(), Watcher(), Watcher()]
    for step in steps:
        if step[0] == "read":
            for _ in range(int(step[2])):
                watchers[int(step[1])].read(log)
        else:
            log.publish(event(*step))
    for watcher in watchers:
        while watcher.read(log):
            pass

        assert watcher.revision == log.revision
        assert dict(watcher.view.replicas) == dict(log.view.replicas)
        assert dict(watcher.view.deployments) == dict(log.view.deployments)


@pytest.mark.parametrize(("behind", "is_snapshot"), [(1, False), (4, False), (5, True)])
def test_only_who_is_behind_the_history_gets_a_snapshot(behind: int, is_snapshot: bool) -> None:
    log = WatchLog("e1", history_events=4)
    for number in range(10):
        log.publish(event("come", f"r{number}"))

    message = log.next_after(log.revision - behind, "e1")

    assert message is not None
    assert message.HasField("snapshot") == is_snapshot


@pytest.mark.parametrize(("revision", "epoch"), [(0, ""), (0, "e1"), (1, "e0"), (99, "e1"), (-5, "e1")])
def test_who_knows_nothing_or_something_else_gets_a_snapshot(revision: int, epoch: str) -> None:
    message = WatchLog("e1", [Deployment(name="iris")]).next_after(revision, epoch)

    assert message is not None
    assert [deployment.name for deployment in message.snapshot.deployments] == ["iris"]
    assert (message.revision, message.epoch) == (1, "e1")


def test_who_has_seen_everything_gets_nothing() -> None:
    assert WatchLog("e1").next_after(1, "e1") is None


async def test_waiting_watcher_wakes_up_for_each_event() -> None:
    log = WatchLog("e1")
    seen: list[int] = []

    async def watch() -> None:
        async for message in log.subscribe(0, ""):
            seen.append(message.revision)

    watching = asyncio.create_task(watch())
    await eventually(lambda: seen == [1])
    log.publish(event("come", "r1"))
    log.publish(event("come", "r2"))
    await eventually(lambda: seen == [1, 2, 3])

    log.close()
    with pytest.raises(Unavailable, match="stopping"):
        await watching


async def test_slow_watcher_is_resynced_by_one_snapshot() -> None:
    log = WatchLog("e1", history_events=10)
    async with aclosing(log.subscribe(0, "")) as messages:
        await anext(messages)
        for number in range(1000):
            log.publish(event("come", f"r{number}"))
        message = await anext(messages)

        assert len(message.snapshot.replicas) == 1000
        assert message.revision == log.revision


async def test_one_watcher_too_many_is_refused_and_a_place_is_given_back() -> None:
    log = WatchLog("e1", max_watchers=1)
    async with aclosing(log.subscribe(0, "")) as first:
        await anext(first)
        with pytest.raises(Overloaded, match="1 watchers"):
            await anext(log.subscribe(0, ""))
    async with aclosing(log.subscribe(0, "")) as again:
        await anext(again)

    assert log.num_watchers == 0

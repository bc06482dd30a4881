"""Discovery against a registry that misbehaves on its Watch stream: gaps, doubles, old revisions, endings."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

from mesh.discovery import VIEW_FILE, Discovery
from mesh.testing import eventually, serve_on_free_port
from mesh.v1.registry_pb2 import MeshSnapshot, Replica, WatchRequest, WatchResponse
from mesh.v1.registry_pb2_grpc import add_RegistryServiceServicer_to_server


class ScriptedRegistry:
    """Answers the n-th Watch with the n-th script, then ends it; the last one stays open."""

    def __init__(self, *scripts: list[WatchResponse]) -> None:
        self.requests: list[tuple[int, str]] = []
        self._scripts = scripts

    async def Watch(self, request: WatchRequest, _context: object) -> AsyncIterator[WatchResponse]:
        script = self._scripts[min(len(self.requests), len(self._scripts) - 1)]
        self.requests.append((request.after_revision, request.epoch))
        for message in script:
            yield message
        if len(self.requests) == len(self._scripts):
            await asyncio.Event().wait()

    def __getattr__(self, rpc: str) -> None:
        return None


def snapshot(revision: int, *ids: str, epoch: str = "e1") -> WatchResponse:
    replicas = [Replica(id=id_, address=f"{id_}:1") for id_ in ids]
    return WatchResponse(revision=revision, epoch=epoch, snapshot=MeshSnapshot(replicas=replicas))


def come(revision: int, id_: str, epoch: str = "e1") -> WatchResponse:
    return WatchResponse(revision=revision, epoch=epoch, replica_announced=Replica(id=id_, address=f"{id_}:1"))


@asynccontextmanager
async def watching(scripted: ScriptedRegistry, state_dir: Path, grace_s: float = 30) -> AsyncIterator[Discovery]:
    servicer: Any = scripted
    async with serve_on_free_port((add_RegistryServiceServicer_to_server, servicer)) as address:
        discovery = Discovery(registry=address, endpoints=None, state_dir=state_dir, grace_s=grace_s)
        await discovery.start()
        try:
            yield discovery
        finally:
            await discovery.close()


async def watch(scripted: ScriptedRegistry, state_dir: Path, expected: set[str], num_requests: int) -> Discovery:
    async with watching(scripted, state_dir) as discovery:
        await eventually(
            lambda: set(discovery.view.replicas) == expected and len(scripted.requests) == num_requests, timeout_s=20
        )
        await eventually(lambda: saved_replicas(state_dir) == expected, timeout_s=20)
    return discovery


def saved_replicas(state_dir: Path) -> set[str]:
    try:
        saved = json.loads((state_dir / VIEW_FILE).read_text())
    except FileNotFoundError:
        return set()
    return {entry["id"] for entry in saved["snapshot"].get("replicas", [])}


async def test_gap_is_closed_by_a_snapshot(tmp_path: Path) -> None:
    scripted = ScriptedRegistry([snapshot(5, "a"), come(7, "c")], [snapshot(7, "a", "b", "c")])

    await watch(scripted, tmp_path, {"a", "b", "c"}, 2)

    assert scripted.requests == [(0, ""), (0, "")]


async def test_double_and_old_events_are_ignored(tmp_path: Path) -> None:
    left = WatchResponse(revision=3, epoch="e1", replica_left="a")
    scripted = ScriptedRegistry([snapshot(5, "a"), left, come(6, "b"), come(6, "x")])

    await watch(scripted, tmp_path, {"a", "b"}, 1)


async def test_event_of_another_epoch_is_not_believed(tmp_path: Path) -> None:
    scripted = ScriptedRegistry([snapshot(5, "a"), come(6, "x", epoch="e2")], [snapshot(1, "b", epoch="e2")])

    discovery = await watch(scripted, tmp_path, {"a", "b"}, 2)

    assert discovery.view.in_doubt == {"a"}


async def test_ended_stream_is_resumed_after_the_last_revision(tmp_path: Path) -> None:
    scripted = ScriptedRegistry([snapshot(5, "a"), come(6, "b")], [come(7, "c")])

    await watch(scripted, tmp_path, {"a", "b", "c"}, 2)

    assert scripted.requests == [(0, ""), (6, "e1")]


async def test_snapshot_of_an_earlier_revision_is_refused_and_asked_for_again(tmp_path: Path) -> None:
    scripted = ScriptedRegistry([snapshot(50, "a")], [snapshot(2, "b")], [snapshot(2, "b")], [snapshot(51, "a", "c")])

    await watch(scripted, tmp_path, {"a", "c"}, 4)

    assert scripted.requests == [(0, ""), (50, "e1"), (0, ""), (0, "")]


async def test_earlier_revision_than_that_of_the_saved_view_is_refused(tmp_path: Path) -> None:
    await watch(ScriptedRegistry([snapshot(50, "a")]), tmp_path, {"a"}, 1)

    await watch(ScriptedRegistry([snapshot(2, "b")], [snapshot(50, "a")]), tmp_path, {"a"}, 2)


async def test_registry_that_insists_on_an_earlier_revision_is_believed_with_doubt(tmp_path: Path) -> None:
    scripted = ScriptedRegistry([snapshot(50, "a")], *[[snapshot(2, "b")]] * 40)

    async with watching(scripted, tmp_path, grace_s=0.5) as discovery:
        seen: list[set[str]] = []
        discovery.on_change(lambda view: seen.append(set(view.replicas)))
        await eventually(lambda: set(discovery.view.replicas) == {"a", "b"}, timeout_s=20)

        assert discovery.view.in_doubt == {"a"}
        await eventually(lambda: set(discovery.view.replicas) == {"b"}, timeout_s=20)
        assert [ids for ids, _ in groupby(seen)] == [{"a", "b"}, {"b"}]

"""The view of the mesh while registries come, go, forget and restart."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from mesh.discovery import VIEW_FILE, Discovery
from mesh.errors import InvalidInput
from mesh.testing import eventually
from mesh.v1.registry_pb2 import SERVICE_KIND_PREDICTOR, Deployment, PredictorSpec, Replica


def replica(id_: str, address: str = "") -> Replica:
    return Replica(id=id_, kind=SERVICE_KIND_PREDICTOR, address=address or f"127.0.0.1:{10_000 + int(id_[1:])}")


def deployment(name: str) -> Deployment:
    return Deployment(name=name, predictor=PredictorSpec(model_format="sklearn", storage_uri="file:///m"))


@asynccontextmanager
async def discovering(registry: Any, state_dir: Path, **options: Any) -> AsyncIterator[Discovery]:
    discovery = Discovery(registry=registry.address, endpoints=None, state_dir=state_dir, **options)
    await discovery.start()
    try:
        yield discovery
    finally:
        await discovery.close()


def sees(discovery: Discovery, *ids: str) -> Callable[[], bool]:
    return lambda: set(discovery.view.replicas) == set(ids)


async def test_view_is_there_when_start_returns_and_follows_each_change(registry: Any, tmp_path: Path) -> None:
    await registry.control.apply_deployment(deployment("iris"))
    registry.control.announce(replica("r1"), 10)
    async with discovering(registry, tmp_path) as discovery:
        assert set(discovery.view.deployments) == {"iris"}
        assert sees(discovery, "r1")()

        registry.control.announce(replica("r2"), 10)
        await eventually(sees(discovery, "r1", "r2"))
        registry.control.withdraw("r1")
        await eventually(sees(discovery, "r2"))
        await registry.control.delete_deployment("iris")
        await eventually(lambda: not discovery.view.deployments)


async def test_callbacks_get_each_new_view(registry: Any, tmp_path: Path) -> None:
    async with discovering(registry, tmp_path) as discovery:
        seen: list[int] = []
        discovery.on_change(lambda view: seen.append(len(view.replicas)))
        for id_ in ("r1", "r2", "r3"):
            registry.control.announce(replica(id_), 10)

        await eventually(lambda: seen == [1, 2, 3])


async def test_killed_registry_leaves_the_view_as_it_is(registry: Any, tmp_path: Path) -> None:
    registry.control.announce(replica("r1"), 1)
    async with discovering(registry, tmp_path, grace_s=0.2) as discovery:
        await registry.kill()
        await asyncio.sleep(1.5)

        assert sees(discovery, "r1")()


async def test_restarted_registry_does_not_empty_the_view_until_the_grace_is_over(
    registry: Any, tmp_path: Path
) -> None:
    for id_ in ("r1", "r2"):
        registry.control.announce(replica(id_), 10)
    async with discovering(registry, tmp_path, grace_s=1.5) as discovery:
        history: list[set[str]] = []
        discovery.on_change(lambda view: history.append(set(view.replicas)))
        await registry.kill()
        await registry.start()
        await eventually(lambda: discovery.view.in_doubt == {"r1", "r2"})
        registry.control.announce(replica("r1"), 10)

        await eventually(sees(discovery, "r1"))
        assert not discovery.view.in_doubt
        assert all("r1" in ids for ids in history)


async def test_replica_in_doubt_goes_at_once_when_another_has_its_address(registry: Any, tmp_path: Path) -> None:
    registry.control.announce(replica("r1", "127.0.0.1:5"), 10)
    async with discovering(registry, tmp_path, grace_s=30) as discovery:
        await registry.kill()
        await registry.start()
        await eventually(lambda: discovery.view.in_doubt == {"r1"})
        registry.control.announce(replica("r2", "127.0.0.1:5"), 10)

        await eventually(sees(discovery, "r2"))


async def test_replica_in_doubt_can_withdraw(registry: Any, tmp_path: Path) -> None:
    registry.control.announce(replica("r1"), 10)
    async with discovering(registry, tmp_path, grace_s=30) as discovery:
        await registry.kill()
        await registry.start()
        await eventually(lambda: discovery.view.in_doubt == {"r1"})
        registry.control.withdraw("r1")

        await eventually(sees(discovery))


async def test_grace_starts_anew_when_the_registry_dies_again(registry: Any, tmp_path: Path) -> None:
    registry.control.announce(replica("r1"), 10)
    async with discovering(registry, tmp_path, grace_s=1.0) as discovery:
        await registry.kill()
        await registry.start()
        await eventually(lambda: discovery.view.in_doubt == {"r1"})
        await registry.kill()
        await asyncio.sleep(1.3)
        assert sees(discovery, "r1")()

        await registry.start()
        await eventually(sees(discovery))


async def test_absent_registry_at_the_start_means_the_last_known_view(registry: Any, tmp_path: Path) -> None:
    await registry.control.apply_deployment(deployment("iris"))
    registry.control.announce(replica("r1"), 10)
    async with discovering(registry, tmp_path):
        await eventually(lambda: saved_replicas(tmp_path) == ["r1"])
    await registry.kill()
    async with discovering(registry, tmp_path, first_view_s=0.2, grace_s=30) as discovery:
        assert set(discovery.view.deployments) == {"iris"}
        assert sees(discovery, "r1")()

        await registry.start()
        registry.control.announce(replica("r2"), 10)
        await eventually(sees(discovery, "r1", "r2"))
        assert discovery.view.in_doubt == {"r1"}


async def test_last_known_view_of_a_registry_that_remembers_is_replaced(registry: Any, tmp_path: Path) -> None:
    registry.control.announce(replica("r1"), 10)
    async with discovering(registry, tmp_path):
        await eventually(lambda: saved_replicas(tmp_path) == ["r1"])
    registry.control.withdraw("r1")
    async with discovering(registry, tmp_path) as discovery:
        assert sees(discovery)()


async def test_nothing_known_and_no_registry_is_an_empty_view(registry: Any, tmp_path: Path) -> None:
    await registry.kill()
    async with discovering(registry, tmp_path, first_view_s=0.1) as discovery:
        assert sees(discovery)()
        registry_back = asyncio.create_task(registry.start())
        await registry_back
        registry.control.announce(replica("r1"), 10)
        await eventually(sees(discovery, "r1"))


@pytest.mark.parametrize("content", ["", "{", '{"epoch": 3}', "\udcff"])
async def test_unreadable_last_view_is_no_reason_not_to_start(registry: Any, tmp_path: Path, content: str) -> None:
    (tmp_path / VIEW_FILE).write_bytes(content.encode("utf-8", "surrogateescape"))
    registry.control.announce(replica("r1"), 10)
    async with discovering(registry, tmp_path) as discovery:
        assert sees(discovery, "r1")()


def static_file(path: Path, *addresses: str) -> Path:
    path.write_text(
        f"""
endpoints: {{predictor: {list(addresses)}, transformer: ["127.0.0.1:8091"]}}
deployments: [{{name: iris, predictor: {{model_format: sklearn, storage_uri: "file:///m"}}}}]
"""
    )
    return path


async def test_static_file_is_the_view_without_a_registry(tmp_path: Path) -> None:
    path = static_file(tmp_path / "endpoints.yaml", "127.0.0.1:8092")
    discovery = Discovery(registry=None, endpoints=path, state_dir=tmp_path)
    await discovery.start()

    [predictor] = discovery.view.replicas_of(SERVICE_KIND_PREDICTOR)
    assert predictor.address == "127.0.0.1:8092"
    assert [model.name for model in predictor.models] == ["iris"]
    await discovery.close()


async def test_static_file_is_read_again_when_it_changes_and_a_wrong_one_is_not_taken(tmp_path: Path) -> None:
    path = static_file(tmp_path / "endpoints.yaml", "127.0.0.1:8092")
    discovery = Discovery(registry=None, endpoints=path, state_dir=tmp_path)
    seen: list[set[str]] = []
    discovery.on_change(lambda view: seen.append({r.address for r in view.replicas_of(SERVICE_KIND_PREDICTOR)}))
    await discovery.start()
    try:
        with capture_logs() as logs:
            path.write_text("endpoints: [")
            await eventually(lambda: any(entry["event"] == "endpoints_refused" for entry in logs), timeout_s=20)
        static_file(path, "127.0.0.1:8092", "127.0.0.1:8093")
        await eventually(lambda: len(seen) > 1, timeout_s=20)
    finally:
        await discovery.close()

    assert seen == [{"127.0.0.1:8092"}, {"127.0.0.1:8092", "127.0.0.1:8093"}]


async def test_wrong_static_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    discovery = Discovery(registry=None, endpoints=tmp_path / "none.yaml", state_dir=tmp_path)
    with pytest.raises(InvalidInput, match=r"none\.yaml: cannot be read: No such file"):
        await discovery.start()


async def test_neither_registry_nor_file_is_an_empty_view(tmp_path: Path) -> None:
    discovery = Discovery(registry=None, endpoints=None, state_dir=tmp_path)
    await discovery.start()
    assert sees(discovery)()
    await discovery.close()


def saved_replicas(state_dir: Path) -> list[str]:
    try:
        saved = json.loads((state_dir / VIEW_FILE).read_text())
    except FileNotFoundError:
        return []
    return [entry["id"] for entry in saved["snapshot"].get("replicas", [])]

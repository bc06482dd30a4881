"""A replica's lease at a real registry that comes and goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from mesh.announce import Announcer
from mesh.discovery import Discovery
from mesh.testing import eventually
from mesh.v1.registry_pb2 import SERVICE_KIND_PREDICTOR, Replica, ServedModel


def replica(id_: str = "r1") -> Replica:
    return Replica(id=id_, kind=SERVICE_KIND_PREDICTOR, address="127.0.0.1:1")


@asynccontextmanager
async def announced(address: str, lease_s: float = 10.0) -> AsyncIterator[Announcer]:
    announcer = Announcer(address, replica(), lease_s)
    await announcer.start()
    try:
        yield announcer
    finally:
        await announcer.withdraw()


def knows(registry: Any, id_: str = "r1") -> Callable[[], bool]:
    return lambda: id_ in registry.control.view.replicas


async def test_new_replica_is_visible_to_a_watcher_within_a_second(registry: Any, tmp_path: Any) -> None:
    discovery = Discovery(registry=registry.address, endpoints=None, state_dir=tmp_path)
    await discovery.start()

    async with announced(registry.address):
        await eventually(lambda: "r1" in discovery.view.replicas, timeout_s=1)

    await eventually(lambda: not discovery.view.replicas)
    await discovery.close()


async def test_lease_is_renewed(registry: Any) -> None:
    async with announced(registry.address, lease_s=1):
        await eventually(knows(registry))
        revision = registry.watch_log.revision
        await asyncio.sleep(1.6)

        assert knows(registry)()
        assert registry.watch_log.revision == revision


async def test_change_of_models_is_announced_at_once(registry: Any) -> None:
    async with announced(registry.address) as announcer:
        await eventually(knows(registry))
        await announcer.set_models([ServedModel(name="iris", version="1", ready=True)])

        await eventually(lambda: len(registry.control.view.replicas["r1"].models) == 1)


async def test_withdrawal_is_seen_at_once_and_may_be_repeated(registry: Any) -> None:
    async with announced(registry.address) as announcer:
        await eventually(knows(registry))
        await announcer.withdraw()

        assert not knows(registry)()
        await announcer.withdraw()


async def test_registry_that_is_absent_at_the_start_hears_when_it_comes(registry: Any) -> None:
    await registry.kill()
    async with announced(registry.address) as announcer:
        await announcer.set_models([ServedModel(name="iris", version="1", ready=True)])
        await asyncio.sleep(0.3)
        await registry.start()

        await eventually(knows(registry), timeout_s=10)
        assert registry.control.view.replicas["r1"].models[0].name == "iris"


async def test_registry_that_restarts_hears_again(registry: Any) -> None:
    async with announced(registry.address):
        await eventually(knows(registry))
        await registry.kill()
        await registry.start()

        await eventually(knows(registry), timeout_s=10)


async def test_withdrawal_from_an_absent_registry_ends_in_time(registry: Any) -> None:
    async with announced(registry.address) as announcer:
        await eventually(knows(registry))
        await registry.kill()
        async with asyncio.timeout(10):
            await announcer.withdraw()

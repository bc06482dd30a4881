"""A real registry that a test can kill and bring back at the same address."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import grpc.aio
import pytest
from prometheus_client import CollectorRegistry

from mesh.interceptors import handler_table
from mesh.load_meter import LoadMeter
from mesh.metrics import RpcMetrics
from mesh.v1.registry_pb2_grpc import add_RegistryServiceServicer_to_server
from registry.catalog import Catalog
from registry.control import ControlPlane, deployment_of
from registry.database import Database
from registry.leases import Leases
from registry.servicer import RegistryServicer
from registry.watch import WatchLog

_starts = itertools.count(1)


class RunningRegistry:
    """A registry on a port of its own. `kill()` drops all connections at once; `start()` begins a new epoch."""

    def __init__(self, database: Path) -> None:
        self._path = database
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{listener.getsockname()[1]}"
        self._server: grpc.aio.Server | None = None

    async def start(self) -> None:
        self.database = Database(f"sqlite:///{self._path}")
        catalog = Catalog(self.database, lambda: datetime.now(UTC))
        deployments = [deployment_of(record) for record in catalog.deployments()]
        self.watch_log = WatchLog(f"epoch-{next(_starts)}", deployments)
        self.control = ControlPlane(catalog, self.watch_log, Leases(time.monotonic))
        await self.control.start()
        handlers = handler_table(RpcMetrics(CollectorRegistry()), LoadMeter())
        self._server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        self._server.add_generic_rpc_handlers((handlers,))
        servicer = RegistryServicer(catalog, self.control)
        add_RegistryServiceServicer_to_server(servicer, cast("grpc.aio.Server", handlers))
        self._server.add_insecure_port(self.address)
        await self._server.start()

    async def kill(self) -> None:
        if self._server is None:
            return
        await self._server.stop(None)
        self._server = None
        await self.control.close()
        self.database.close()


@pytest.fixture
async def make_registry(tmp_path: Path) -> AsyncIterator[Callable[[], Awaitable[RunningRegistry]]]:
    made: list[RunningRegistry] = []

    async def make() -> RunningRegistry:
        registry = RunningRegistry(tmp_path / f"registry-{len(made)}.db")
        made.append(registry)
        await registry.start()
        return registry

    yield make
    for registry in made:
        await registry.kill()


@pytest.fixture
async def registry(make_registry: Callable[[], Awaitable[RunningRegistry]]) -> RunningRegistry:
    return await make_registry()

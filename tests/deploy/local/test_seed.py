"""What an earlier run left in the registry is removed over the wire; a registry that refuses is a warning."""

from __future__ import annotations

from collections.abc import AsyncIterator

import grpc.aio

from deploy.local.events import Event, Warned
from deploy.local.seed import remove_other_deployments
from mesh.errors import Unavailable
from mesh.testing import serve_on_free_port
from mesh.v1.registry_pb2 import (
    DeleteDeploymentRequest,
    DeleteDeploymentResponse,
    Deployment,
    MeshSnapshot,
    WatchRequest,
    WatchResponse,
)
from mesh.v1.registry_pb2_grpc import RegistryServiceServicer, add_RegistryServiceServicer_to_server

Context = grpc.aio.ServicerContext[object, object]


class Registry(RegistryServiceServicer):
    """Knows three deployments, and remembers which were deleted."""

    def __init__(self, *, is_broken: bool = False) -> None:
        self.deleted: list[str] = []
        self._is_broken = is_broken

    async def Watch(self, request: WatchRequest, context: Context) -> AsyncIterator[WatchResponse]:  # type: ignore[override]
        if self._is_broken:
            raise Unavailable("the database is away")
        deployments = [Deployment(name=name) for name in ("iris", "old", "older")]
        yield WatchResponse(revision=1, snapshot=MeshSnapshot(deployments=deployments))

    async def DeleteDeployment(  # type: ignore[override]
        self, request: DeleteDeploymentRequest, context: Context
    ) -> DeleteDeploymentResponse:
        self.deleted.append(request.name)
        return DeleteDeploymentResponse()


async def test_only_what_the_file_does_not_have_is_removed() -> None:
    registry, events = Registry(), list[Event]()

    async with serve_on_free_port((add_RegistryServiceServicer_to_server, registry)) as address:
        await remove_other_deployments(address, {"iris"}, events.append)

    assert registry.deleted == ["old", "older"]
    assert len(events) == 2


async def test_a_registry_that_refuses_is_a_warning() -> None:
    events = list[Event]()

    async with serve_on_free_port((add_RegistryServiceServicer_to_server, Registry(is_broken=True))) as address:
        await remove_other_deployments(address, {"iris"}, events.append)

    (warning,) = events
    assert isinstance(warning, Warned)
    assert "the database is away" in warning.text

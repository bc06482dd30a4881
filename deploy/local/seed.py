"""Keeps the registry of a local mesh to what its deployments file says: the file is all that `up` serves.

The registry adds what the file has when it starts. What an earlier `up` with another file left there has no predictor
now, so it is removed.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

import grpc.aio

from deploy.local.events import Report, Warned
from mesh.channel import open_channel
from mesh.v1.registry_pb2 import DeleteDeploymentRequest, WatchRequest
from mesh.v1.registry_pb2_grpc import RegistryServiceStub

if TYPE_CHECKING:
    from mesh.v1.registry_pb2_grpc import RegistryServiceAsyncStub

_TIMEOUT_S = 10.0


async def remove_other_deployments(address: str, keep: Collection[str], report: Report) -> None:
    """Delete from the registry at `address` every deployment that is not in `keep`. What fails is a warning."""
    async with open_channel(address) as channel:
        registry = RegistryServiceStub(channel)
        try:
            for name in await _deployments(registry):
                if name not in keep:
                    await registry.DeleteDeployment(DeleteDeploymentRequest(name=name), timeout=_TIMEOUT_S)
                    report(Warned(f"deployment {name} is removed: the deployments file does not have it any more"))
        except grpc.aio.AioRpcError as error:
            report(Warned(f"deployments of earlier runs may still be listed: {error.details()}"))


async def _deployments(registry: RegistryServiceAsyncStub) -> list[str]:
    # The first event of a watch is the whole state.
    async for response in registry.Watch(WatchRequest(), timeout=_TIMEOUT_S):
        return [each.name for each in response.snapshot.deployments]
    return []

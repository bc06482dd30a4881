"""Load and unload at every predictor: an operator's verbs, so each opens a channel of its own.

A predictor that does not know the model does not count against one that does.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping

import grpc.aio

from mesh import context
from mesh.channel import open_channel, to_mesh_error
from mesh.errors import MeshError, NotFound, Unavailable
from mesh.oip import open_inference_pb2 as oip
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from mesh.v1.registry_pb2 import SERVICE_KIND_PREDICTOR
from mesh.view import MeshView

# (channel, seconds) → the RPC
Call = Callable[[grpc.aio.Channel, float], Awaitable[object]]
Parameters = Mapping[str, oip.ModelRepositoryParameter]


class RepositoryControl:
    """Tells all predictors of the view at once."""

    def __init__(self, view: Callable[[], MeshView], *, request_timeout_s: float) -> None:
        self._view = view
        self._request_timeout_s = request_timeout_s

    async def load(self, name: str, parameters: Parameters | None = None) -> None:
        """Load the model wherever it may run. Raises NotFound when no predictor knows it."""
        request = oip.RepositoryModelLoadRequest(model_name=name, parameters=parameters)
        await self._tell_all(
            lambda channel, timeout_s: GRPCInferenceServiceStub(channel).RepositoryModelLoad(request, timeout=timeout_s)
        )

    async def unload(self, name: str, parameters: Parameters | None = None) -> None:
        """Unload the model wherever it runs. Raises NotFound when no predictor knows it."""
        request = oip.RepositoryModelUnloadRequest(model_name=name, parameters=parameters)
        await self._tell_all(
            lambda channel, timeout_s: GRPCInferenceServiceStub(channel).RepositoryModelUnload(
                request, timeout=timeout_s
            )
        )

    async def _tell_all(self, call: Call) -> None:
        addresses = [replica.address for replica in self._view().replicas_of(SERVICE_KIND_PREDICTOR)]
        if not addresses:
            raise Unavailable("no predictor is known to the mesh")
        outcomes = await asyncio.gather(*(self._tell(address, call) for address in addresses))
        errors = [error for error in outcomes if error is not None]
        severe = [error for error in errors if not isinstance(error, NotFound)]
        if severe or len(errors) == len(addresses):
            raise (severe or errors)[0]

    async def _tell(self, address: str, call: Call) -> MeshError | None:
        timeout_s = context.remaining_s(self._request_timeout_s) or self._request_timeout_s
        async with open_channel(address) as channel:
            try:
                await call(channel, timeout_s)
            except grpc.aio.AioRpcError as error:
                return to_mesh_error(error)
        return None

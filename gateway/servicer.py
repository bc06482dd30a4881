"""The RPCs that the gateway answers itself, or whose request it must read: OIP's server part, and explanations.

What only passes through is in gateway/passthrough.py. Of the rest of Triton's service, shared memory, trace and log
settings are not offered and say so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from gateway.dataplane import Dataplane
from gateway.exchange import Exchange, Recorder
from gateway.passthrough import OIP, OIP_SERVICE, PROTOCOL
from gateway.repository import RepositoryControl
from gateway.server_metadata import server_metadata
from mesh.errors import InvalidInput, Unsupported
from mesh.oip import open_inference_pb2 as oip
from mesh.v1 import explain_pb2
from mesh.v1.explain_pb2_grpc import ExplainServiceServicer

if TYPE_CHECKING:
    # The stubs make these generic; the classes themselves cannot be subscripted.
    Handler = grpc.RpcMethodHandler[Any, Any]
    Context = grpc.aio.ServicerContext[Any, Any]

EXPLAIN = "/mesh.v1.ExplainService/Explain"


class OipHandlers(grpc.GenericRpcHandler):
    """Serves the RPCs of GRPCInferenceService that are about the gateway and the mesh, and refuses the unknown ones."""

    def __init__(self, dataplane: Dataplane, repository: RepositoryControl, recorder: Recorder) -> None:
        self._dataplane = dataplane
        self._repository = repository
        self._recorder = recorder
        self._handlers: dict[str, Handler] = {
            "ServerLive": self._handler(oip.ServerLiveRequest, self._server_live),
            "ServerReady": self._handler(oip.ServerReadyRequest, self._server_ready),
            "ServerMetadata": self._handler(oip.ServerMetadataRequest, self._server_metadata),
            "ModelReady": self._handler(oip.ModelReadyRequest, self._model_ready),
            "ModelStatistics": self._handler(oip.ModelStatisticsRequest, self._model_statistics),
            "RepositoryIndex": self._handler(oip.RepositoryIndexRequest, self._repository_index),
            "RepositoryModelLoad": self._handler(oip.RepositoryModelLoadRequest, self._load),
            "RepositoryModelUnload": self._handler(oip.RepositoryModelUnloadRequest, self._unload),
            "SystemSharedMemoryStatus": self._handler(oip.SystemSharedMemoryStatusRequest, self._system_regions),
            "CudaSharedMemoryStatus": self._handler(oip.CudaSharedMemoryStatusRequest, self._cuda_regions),
        }
        for method in oip.DESCRIPTOR.services_by_name[OIP_SERVICE.rpartition(".")[2]].methods:
            self._handlers.setdefault(method.name, _refusing(method.name))

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:  # Any: as the base class has it
        """The handler of the method; None for those of other services."""
        service, _, method = handler_call_details.method.rpartition("/")
        return self._handlers.get(method) if service + "/" == OIP else None

    def _handler(self, request_class: Any, answer: Callable[[Any, Exchange], Awaitable[Any]]) -> Handler:
        route = OIP + request_class.DESCRIPTOR.name.removesuffix("Request")

        async def handle(request: Any, _context: Context) -> Any:
            with self._recorder.exchange(PROTOCOL, route) as exchange:
                return await answer(request, exchange)

        return grpc.unary_unary_rpc_method_handler(handle, request_class.FromString, _serialize)

    async def _server_live(self, _request: oip.ServerLiveRequest, _exchange: Exchange) -> oip.ServerLiveResponse:
        return oip.ServerLiveResponse(live=True)

    async def _server_ready(self, _request: oip.ServerReadyRequest, _exchange: Exchange) -> oip.ServerReadyResponse:
        return oip.ServerReadyResponse(ready=not self._dataplane.is_draining)

    async def _server_metadata(
        self, _request: oip.ServerMetadataRequest, _exchange: Exchange
    ) -> oip.ServerMetadataResponse:
        return server_metadata()

    async def _model_ready(self, request: oip.ModelReadyRequest, _exchange: Exchange) -> oip.ModelReadyResponse:
        return oip.ModelReadyResponse(ready=self._dataplane.is_ready(request.name, request.version))

    async def _model_statistics(
        self, request: oip.ModelStatisticsRequest, exchange: Exchange
    ) -> oip.ModelStatisticsResponse:
        if request.name:
            exchange.deployment = self._dataplane.deployment(request.name).name
            return await self._dataplane.statistics(request.name, request.version)
        whole = oip.ModelStatisticsResponse()
        for entry in self._dataplane.index(only_ready=True):
            whole.MergeFrom(await self._dataplane.statistics(entry.name))
        return whole

    async def _repository_index(
        self, request: oip.RepositoryIndexRequest, _exchange: Exchange
    ) -> oip.RepositoryIndexResponse:
        return oip.RepositoryIndexResponse(models=self._dataplane.index(only_ready=request.ready))

    async def _load(
        self, request: oip.RepositoryModelLoadRequest, exchange: Exchange
    ) -> oip.RepositoryModelLoadResponse:
        name = self._dataplane.deployment(_named_model(request), exchange).name
        await self._repository.load(name, request.parameters)
        return oip.RepositoryModelLoadResponse(model_name=name, isLoaded=True)

    async def _unload(
        self, request: oip.RepositoryModelUnloadRequest, exchange: Exchange
    ) -> oip.RepositoryModelUnloadResponse:
        name = self._dataplane.deployment(_named_model(request), exchange).name
        await self._repository.unload(name, request.parameters)
        return oip.RepositoryModelUnloadResponse(model_name=name, isUnloaded=True)

    async def _system_regions(
        self, _request: oip.SystemSharedMemoryStatusRequest, _exchange: Exchange
    ) -> oip.SystemSharedMemoryStatusResponse:
        return oip.SystemSharedMemoryStatusResponse()

    async def _cuda_regions(
        self, _request: oip.CudaSharedMemoryStatusRequest, _exchange: Exchange
    ) -> oip.CudaSharedMemoryStatusResponse:
        return oip.CudaSharedMemoryStatusResponse()


class GatewayExplainService(ExplainServiceServicer):
    """`mesh.v1.ExplainService`: read, since the deployment may name the method."""

    def __init__(self, dataplane: Dataplane, recorder: Recorder) -> None:
        self._dataplane = dataplane
        self._recorder = recorder

    async def Explain(self, request: explain_pb2.ExplainRequest, context: Context) -> explain_pb2.ExplainResponse:
        with self._recorder.exchange(PROTOCOL, EXPLAIN) as exchange:
            exchange.is_prediction = True
            return await self._dataplane.explain(request, exchange)


def _named_model(request: oip.RepositoryModelLoadRequest | oip.RepositoryModelUnloadRequest) -> str:
    """KServe's dialect has the model's name in the field that is the repository's name in Triton's."""
    name = request.model_name or request.repository_name
    if not name:
        raise InvalidInput("model_name is empty", field="model_name")
    return name


def _refusing(method: str) -> Handler:
    async def refuse(_request: bytes, _context: Context) -> bytes:
        raise Unsupported(
            f"{method} is not served here: tensors travel in messages, and settings are made at the start"
        )

    return grpc.unary_unary_rpc_method_handler(refuse)


def _serialize(message: Any) -> bytes:
    data: bytes = message.SerializeToString()
    return data

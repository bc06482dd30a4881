"""What a service that runs no model can answer of the Open Inference Protocol: is it up, what is it, what is deployed.

All other RPCs of the protocol answer UNIMPLEMENTED, unless the service puts handlers of its own in their place. States
are Triton's words.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Any, TypeAlias

import grpc
import grpc.aio
from google.protobuf.message import Message

from mesh.deployments import versions_of
from mesh.errors import Unsupported
from mesh.model_health import is_ready
from mesh.oip import open_inference_pb2 as oip
from mesh.v1.registry_pb2 import SERVICE_KIND_PREDICTOR
from mesh.view import MeshView

SERVICE = "inference.GRPCInferenceService"

Context = grpc.aio.ServicerContext[Any, Any]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"
_Entry = oip.RepositoryIndexResponse.ModelIndex


class ModelIndex:
    """Answers from the view of the mesh."""

    def __init__(
        self,
        service: str,
        *,
        view: Callable[[], MeshView],
        version: str,
        extensions: Sequence[str] = ("model_repository",),
        is_ready: Callable[[], bool] = lambda: True,
    ) -> None:
        """service: its name, for example "explainer". version: of this software."""
        self.service = service
        self._view = view
        self._version = version
        self._extensions = extensions
        self._is_ready = is_ready

    async def server_live(self, request: oip.ServerLiveRequest, context: Context) -> oip.ServerLiveResponse:
        return oip.ServerLiveResponse(live=True)

    async def server_ready(self, request: oip.ServerReadyRequest, context: Context) -> oip.ServerReadyResponse:
        return oip.ServerReadyResponse(ready=self._is_ready())

    async def server_metadata(self, request: oip.ServerMetadataRequest, context: Context) -> oip.ServerMetadataResponse:
        return oip.ServerMetadataResponse(
            name=f"meshserve-{self.service}", version=self._version, extensions=self._extensions
        )

    async def model_ready(self, request: oip.ModelReadyRequest, context: Context) -> oip.ModelReadyResponse:
        return oip.ModelReadyResponse(ready=is_ready(self._view(), request.name, request.version))

    async def repository_index(
        self, request: oip.RepositoryIndexRequest, context: Context
    ) -> oip.RepositoryIndexResponse:
        entries = [entry for entry in index_of(self._view()) if entry.state == "READY" or not request.ready]
        return oip.RepositoryIndexResponse(models=entries)


def index_of(view: MeshView) -> Iterator[oip.RepositoryIndexResponse.ModelIndex]:
    """Models by name and version: those that predictors hold, and those that are deployed and that none holds.

    Of a deployment in another version than the one that predictors hold, only further versions are listed.
    """
    held: dict[tuple[str, str], list[bool]] = {}
    for replica in view.replicas_of(SERVICE_KIND_PREDICTOR):
        for model in replica.models:
            held.setdefault((model.name, model.version), []).append(model.ready)
    names = {name for name, _ in held}
    for name, deployment in view.deployments.items():
        deployed, *further = versions_of(deployment)
        for version in further if name in names else (deployed, *further):
            held.setdefault((name, version), [])
    for (name, version), ready in sorted(held.items()):
        reason = f"{sum(ready)} of {len(ready)} replicas ready" if ready else "no replica holds it"
        yield _Entry(name=name, version=version, state=_state(ready), reason=reason)


def index_handlers(index: ModelIndex) -> dict[str, Handler]:
    """A handler for every RPC of the protocol, by name: the index's own, and refusals."""
    handlers = {
        "ServerLive": typed_handler(index.server_live, oip.ServerLiveRequest),
        "ServerReady": typed_handler(index.server_ready, oip.ServerReadyRequest),
        "ServerMetadata": typed_handler(index.server_metadata, oip.ServerMetadataRequest),
        "ModelReady": typed_handler(index.model_ready, oip.ModelReadyRequest),
        "RepositoryIndex": typed_handler(index.repository_index, oip.RepositoryIndexRequest),
    }
    for method in oip.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        handlers.setdefault(method.name, grpc.unary_unary_rpc_method_handler(_refuse(method.name, index.service)))
    return handlers


def add_ModelIndex_to_server(index: ModelIndex, server: grpc.aio.Server) -> None:
    """Register all RPCs of the protocol, as the generated functions of its name do."""
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, index_handlers(index)),))


def typed_handler(behaviour: Callable[[Any, Context], Awaitable[Message]], request: type[Message]) -> Handler:
    """A unary handler that gets a message of type `request`."""

    def encode(response: Message) -> bytes:
        return response.SerializeToString()

    return grpc.unary_unary_rpc_method_handler(behaviour, request.FromString, encode)


def _state(ready: list[bool]) -> str:
    if any(ready):
        return "READY"
    return "LOADING" if ready else "UNAVAILABLE"


def _refuse(method: str, service: str) -> Callable[[bytes, Context], Awaitable[bytes]]:
    async def handle(message: bytes, context: Context) -> bytes:
        raise Unsupported(f"{method} is not served by the {service}")

    return handle

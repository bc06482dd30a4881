"""The part of the Open Inference Protocol that a registry can answer: is it up, what is it, and what is loaded where.

It runs no model: every other RPC of the protocol answers UNIMPLEMENTED. States are Triton's words.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from mesh.errors import Unsupported
from mesh.oip import open_inference_pb2 as oip
from mesh.v1.registry_pb2 import SERVICE_KIND_PREDICTOR
from mesh.view import MeshView

SERVICE = "inference.GRPCInferenceService"
SERVER_NAME = "meshserve-registry"
EXTENSIONS = ("model_repository",)

Context = grpc.aio.ServicerContext[Any, Any]
ModelIndex = oip.RepositoryIndexResponse.ModelIndex


class MeshIndex:
    """view: the mesh now. version: of this software."""

    def __init__(self, view: Callable[[], MeshView], version: str) -> None:
        self._view = view
        self._version = version

    async def server_live(self, request: oip.ServerLiveRequest, context: Context) -> oip.ServerLiveResponse:
        return oip.ServerLiveResponse(live=True)

    async def server_ready(self, request: oip.ServerReadyRequest, context: Context) -> oip.ServerReadyResponse:
        return oip.ServerReadyResponse(ready=True)

    async def server_metadata(self, request: oip.ServerMetadataRequest, context: Context) -> oip.ServerMetadataResponse:
        return oip.ServerMetadataResponse(name=SERVER_NAME, version=self._version, extensions=EXTENSIONS)

    async def model_ready(self, request: oip.ModelReadyRequest, context: Context) -> oip.ModelReadyResponse:
        ready = any(
            entry.name == request.name and entry.state == "READY" and request.version in ("", entry.version)
            for entry in index_of(self._view())
        )
        return oip.ModelReadyResponse(ready=ready)

    async def repository_index(
        self, request: oip.RepositoryIndexRequest, context: Context
    ) -> oip.RepositoryIndexResponse:
        entries = [entry for entry in index_of(self._view()) if entry.state == "READY" or not request.ready]
        return oip.RepositoryIndexResponse(models=entries)


def index_of(view: MeshView) -> Iterator[oip.RepositoryIndexResponse.ModelIndex]:
    """Models by name and version: those that replicas hold, and those that are deployed and that no replica holds."""
    held: dict[tuple[str, str], list[bool]] = {}
    for replica in view.replicas_of(SERVICE_KIND_PREDICTOR):
        for model in replica.models:
            held.setdefault((model.name, model.version), []).append(model.ready)
    names = {name for name, _ in held}
    for name, deployment in view.deployments.items():
        if name not in names:
            held[name, deployment.predictor.model_version] = []
    for (name, version), ready in sorted(held.items()):
        yield ModelIndex(name=name, version=version, state=_state(ready), reason=_reason(ready))


def _state(ready: list[bool]) -> str:
    if any(ready):
        return "READY"
    return "LOADING" if ready else "UNAVAILABLE"


def _reason(ready: list[bool]) -> str:
    return f"{sum(ready)} of {len(ready)} replicas ready" if ready else "no replica holds it"


def add_MeshIndex_to_server(index: MeshIndex, server: grpc.aio.Server) -> None:
    """Register all RPCs of the service, as the generated functions of its name do."""
    handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
        "ServerLive": _typed(index.server_live, oip.ServerLiveRequest),
        "ServerReady": _typed(index.server_ready, oip.ServerReadyRequest),
        "ServerMetadata": _typed(index.server_metadata, oip.ServerMetadataRequest),
        "ModelReady": _typed(index.model_ready, oip.ModelReadyRequest),
        "RepositoryIndex": _typed(index.repository_index, oip.RepositoryIndexRequest),
    }
    for method in oip.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods:
        handlers.setdefault(method.name, grpc.unary_unary_rpc_method_handler(_refuse(method.name)))
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


def _typed(
    behaviour: Callable[[Any, Context], Awaitable[Message]], request: type[Message]
) -> grpc.RpcMethodHandler[Any, Any]:
    def encode(response: Message) -> bytes:
        return response.SerializeToString()

    return grpc.unary_unary_rpc_method_handler(behaviour, request.FromString, encode)


def _refuse(method: str) -> Callable[[bytes, Context], Awaitable[bytes]]:
    async def handle(message: bytes, context: Context) -> bytes:
        raise Unsupported(f"{method} is not served by the registry: it runs no model")

    return handle

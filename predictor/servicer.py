"""The Open Inference Protocol's gRPC service in front of the model repository: decode, one call, encode.

What is raised becomes a status in the interceptors. Both dialects of load and unload are taken (Triton's and
KServe's); shared memory and Triton's trace and log settings are not offered and say so.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, cast

import grpc
import grpc.aio

from mesh.errors import InvalidInput, Unsupported
from mesh.oip import open_inference_pb2 as oip
from mesh.oip import open_inference_pb2_grpc as oip_grpc
from predictor.infer_wire import InferRequest, InferResponse, read_request, write_response
from predictor.inference import Inference
from predictor.model_config import config_message, metadata_message, statistics_message
from predictor.repository import ModelRepository, ModelState

SERVER_NAME = "meshserve-predictor"
EXTENSIONS = ("model_repository", "model_configuration", "statistics", "streaming")

Context = grpc.aio.ServicerContext[Any, Any]


class OpenInferenceServicer(oip_grpc.GRPCInferenceServiceServicer):
    """`version`: of this software, for ServerMetadata."""

    def __init__(self, repository: ModelRepository, version: str) -> None:
        self._repository = repository
        self._inference = Inference(repository)
        self._version = version

    async def ServerLive(self, request: oip.ServerLiveRequest, context: Context) -> oip.ServerLiveResponse:
        return oip.ServerLiveResponse(live=True)

    async def ServerReady(self, request: oip.ServerReadyRequest, context: Context) -> oip.ServerReadyResponse:
        return oip.ServerReadyResponse(ready=self._repository.is_ready)

    async def ModelReady(self, request: oip.ModelReadyRequest, context: Context) -> oip.ModelReadyResponse:
        return oip.ModelReadyResponse(ready=self._repository.is_model_ready(request.name, request.version))

    async def ServerMetadata(self, request: oip.ServerMetadataRequest, context: Context) -> oip.ServerMetadataResponse:
        return oip.ServerMetadataResponse(name=SERVER_NAME, version=self._version, extensions=EXTENSIONS)

    async def ModelMetadata(self, request: oip.ModelMetadataRequest, context: Context) -> oip.ModelMetadataResponse:
        metadata = await self._repository.metadata(request.name, request.version)
        return metadata_message(request.name, metadata, self._repository.versions(request.name))

    async def ModelConfig(self, request: oip.ModelConfigRequest, context: Context) -> oip.ModelConfigResponse:
        async with self._repository.hold(request.name, request.version) as model:
            return oip.ModelConfigResponse(config=config_message(model))

    async def ModelStatistics(
        self, request: oip.ModelStatisticsRequest, context: Context
    ) -> oip.ModelStatisticsResponse:
        models = self._repository.loaded(request.name, request.version)
        return oip.ModelStatisticsResponse(model_stats=map(statistics_message, models))

    async def ModelInfer(  # type: ignore[override]  # it is registered with serializers of its own
        self, request: InferRequest, context: Context
    ) -> InferResponse:
        return await self._inference.infer(request)

    def ModelStreamInfer(
        self, request_iterator: AsyncIterator[oip.ModelInferRequest], context: Context
    ) -> AsyncIterator[oip.ModelStreamInferResponse]:
        return self._inference.infer_stream(request_iterator)

    async def RepositoryIndex(
        self, request: oip.RepositoryIndexRequest, context: Context
    ) -> oip.RepositoryIndexResponse:
        return oip.RepositoryIndexResponse(
            models=[
                oip.RepositoryIndexResponse.ModelIndex(
                    name=status.name, version=status.version, state=status.state.value, reason=status.reason
                )
                for status in self._repository.index()
                if status.state is ModelState.READY or not request.ready
            ]
        )

    async def RepositoryModelLoad(
        self, request: oip.RepositoryModelLoadRequest, context: Context
    ) -> oip.RepositoryModelLoadResponse:
        name = _named_model(request)
        await self._repository.load(name, _named_version(request))
        return oip.RepositoryModelLoadResponse(model_name=name, isLoaded=True)

    async def RepositoryModelUnload(
        self, request: oip.RepositoryModelUnloadRequest, context: Context
    ) -> oip.RepositoryModelUnloadResponse:
        name = _named_model(request)
        await self._repository.unload(name, _named_version(request))
        return oip.RepositoryModelUnloadResponse(model_name=name, isUnloaded=True)

    async def SystemSharedMemoryStatus(
        self, request: oip.SystemSharedMemoryStatusRequest, context: Context
    ) -> oip.SystemSharedMemoryStatusResponse:
        return oip.SystemSharedMemoryStatusResponse()

    async def CudaSharedMemoryStatus(
        self, request: oip.CudaSharedMemoryStatusRequest, context: Context
    ) -> oip.CudaSharedMemoryStatusResponse:
        return oip.CudaSharedMemoryStatusResponse()

    async def SystemSharedMemoryRegister(
        self, request: oip.SystemSharedMemoryRegisterRequest, context: Context
    ) -> oip.SystemSharedMemoryRegisterResponse:
        raise _no_shared_memory()

    async def SystemSharedMemoryUnregister(
        self, request: oip.SystemSharedMemoryUnregisterRequest, context: Context
    ) -> oip.SystemSharedMemoryUnregisterResponse:
        raise _no_shared_memory()

    async def CudaSharedMemoryRegister(
        self, request: oip.CudaSharedMemoryRegisterRequest, context: Context
    ) -> oip.CudaSharedMemoryRegisterResponse:
        raise _no_shared_memory()

    async def CudaSharedMemoryUnregister(
        self, request: oip.CudaSharedMemoryUnregisterRequest, context: Context
    ) -> oip.CudaSharedMemoryUnregisterResponse:
        raise _no_shared_memory()

    async def TraceSetting(self, request: oip.TraceSettingRequest, context: Context) -> oip.TraceSettingResponse:
        raise Unsupported("trace settings cannot be changed here: traces are OpenTelemetry's, set at the start")

    async def LogSettings(self, request: oip.LogSettingsRequest, context: Context) -> oip.LogSettingsResponse:
        raise Unsupported("log settings cannot be changed here: they are set at the start")


def add_open_inference_to_server(servicer: OpenInferenceServicer, server: grpc.aio.Server) -> None:
    """As the generated function, but ModelInfer's messages go through `predictor.infer_wire`."""
    oip_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, cast("grpc.aio.Server", _Registration(server)))


class _Registration:
    """Stands for the server while the generated function registers, and puts its own ModelInfer in place."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._server = server

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Made below, of the handlers that are registered."""

    def add_registered_method_handlers(self, service: str, handlers: Mapping[str, Any]) -> None:
        infer = grpc.unary_unary_rpc_method_handler(handlers["ModelInfer"].unary_unary, read_request, write_response)
        handlers = {**handlers, "ModelInfer": infer}
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
        self._server.add_registered_method_handlers(service, handlers)


def _named_model(request: oip.RepositoryModelLoadRequest | oip.RepositoryModelUnloadRequest) -> str:
    """KServe's dialect has the model's name in the field that is the repository's name in Triton's."""
    name = request.model_name or request.repository_name
    if not name:
        raise InvalidInput("model_name is empty", field="model_name")
    return name


def _named_version(request: oip.RepositoryModelLoadRequest | oip.RepositoryModelUnloadRequest) -> str:
    """Of the parameter `version`, which is ours; empty means all versions, as it does for Triton."""
    if "version" not in request.parameters:
        return ""
    parameter = request.parameters["version"]
    kind = parameter.WhichOneof("parameter_choice")
    if kind not in ("string_param", "int64_param"):
        raise InvalidInput("parameter 'version' must be a text or a whole number", field="parameters.version")
    return parameter.string_param if kind == "string_param" else str(parameter.int64_param)


def _no_shared_memory() -> Unsupported:
    return Unsupported("shared memory is not offered; send tensors in the request")

"""The gRPC front of the registry: decode, one call, encode. What is raised becomes a status in the interceptors."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import grpc.aio
from google.protobuf.timestamp_pb2 import Timestamp

from mesh.errors import InvalidInput
from mesh.v1 import registry_pb2 as pb
from mesh.v1.registry_pb2_grpc import RegistryServiceServicer
from registry.catalog import Catalog, Model, ModelVersion, PromptVersion
from registry.control import ControlPlane

Context = grpc.aio.ServicerContext[Any, Any]


class RegistryServicer(RegistryServiceServicer):
    """All RPCs of mesh.v1.RegistryService."""

    def __init__(self, catalog: Catalog, control: ControlPlane) -> None:
        self._catalog = catalog
        self._control = control

    async def CreateModelVersion(
        self, request: pb.CreateModelVersionRequest, context: Context
    ) -> pb.CreateModelVersionResponse:
        draft = request.model_version
        stored = await asyncio.to_thread(
            self._catalog.create_model_version,
            ModelVersion(
                model_name=draft.model_name,
                artifact_uri=draft.artifact_uri,
                model_format=draft.model_format,
                sha256=draft.sha256,
                tags=dict(draft.tags),
            ),
        )
        return pb.CreateModelVersionResponse(model_version=_model_version(stored))

    async def GetModelVersion(self, request: pb.GetModelVersionRequest, context: Context) -> pb.GetModelVersionResponse:
        match request.WhichOneof("selector"):
            case "version":
                found = await asyncio.to_thread(self._catalog.model_version, request.model_name, request.version)
            case "alias":
                found = await asyncio.to_thread(self._catalog.aliased_model_version, request.model_name, request.alias)
            case _:
                raise InvalidInput("neither version nor alias is set", field="selector")
        return pb.GetModelVersionResponse(model_version=_model_version(found))

    async def ListModels(self, request: pb.ListModelsRequest, context: Context) -> pb.ListModelsResponse:
        models = await asyncio.to_thread(self._catalog.models)
        return pb.ListModelsResponse(models=map(_model, models))

    async def SetModelAlias(self, request: pb.SetModelAliasRequest, context: Context) -> pb.SetModelAliasResponse:
        await asyncio.to_thread(self._catalog.set_model_alias, request.model_name, request.alias, request.version)
        return pb.SetModelAliasResponse()

    async def CreatePromptVersion(
        self, request: pb.CreatePromptVersionRequest, context: Context
    ) -> pb.CreatePromptVersionResponse:
        draft = request.prompt_version
        stored = await asyncio.to_thread(
            self._catalog.create_prompt_version,
            PromptVersion(draft.prompt_name, draft.template, draft.commit_message),
        )
        return pb.CreatePromptVersionResponse(prompt_version=_prompt_version(stored))

    async def GetPromptVersion(
        self, request: pb.GetPromptVersionRequest, context: Context
    ) -> pb.GetPromptVersionResponse:
        found = await asyncio.to_thread(self._catalog.prompt_version, request.prompt_name, request.version)
        return pb.GetPromptVersionResponse(prompt_version=_prompt_version(found))

    async def ApplyDeployment(self, request: pb.ApplyDeploymentRequest, context: Context) -> pb.ApplyDeploymentResponse:
        stored = await self._control.apply_deployment(request.deployment, request.expected_generation)
        return pb.ApplyDeploymentResponse(deployment=stored)

    async def DeleteDeployment(
        self, request: pb.DeleteDeploymentRequest, context: Context
    ) -> pb.DeleteDeploymentResponse:
        await self._control.delete_deployment(request.name)
        return pb.DeleteDeploymentResponse()

    async def AnnounceReplica(self, request: pb.AnnounceReplicaRequest, context: Context) -> pb.AnnounceReplicaResponse:
        return pb.AnnounceReplicaResponse(lease_s=self._control.announce(request.replica, request.lease_s))

    async def RenewLease(self, request: pb.RenewLeaseRequest, context: Context) -> pb.RenewLeaseResponse:
        return pb.RenewLeaseResponse(lease_s=self._control.renew(request.replica_id))

    async def WithdrawReplica(self, request: pb.WithdrawReplicaRequest, context: Context) -> pb.WithdrawReplicaResponse:
        self._control.withdraw(request.replica_id)
        return pb.WithdrawReplicaResponse()

    def Watch(self, request: pb.WatchRequest, context: Context) -> AsyncGenerator[pb.WatchResponse, None]:
        return self._control.watch(request.after_revision, request.epoch)


def _model(model: Model) -> pb.Model:
    aliases = {alias: str(version) for alias, version in model.aliases.items()}
    return pb.Model(name=model.name, versions=map(_model_version, model.versions), aliases=aliases)


def _model_version(version: ModelVersion) -> pb.ModelVersion:
    created_at = Timestamp()
    if version.created_at is not None:
        created_at.FromDatetime(version.created_at)
    return pb.ModelVersion(
        model_name=version.model_name,
        version=str(version.version),
        artifact_uri=version.artifact_uri,
        sha256=version.sha256,
        model_format=version.model_format,
        tags=version.tags,
        created_at=created_at,
    )


def _prompt_version(version: PromptVersion) -> pb.PromptVersion:
    created_at = Timestamp()
    if version.created_at is not None:
        created_at.FromDatetime(version.created_at)
    return pb.PromptVersion(
        prompt_name=version.prompt_name,
        version=str(version.version),
        template=version.template,
        commit_message=version.commit_message,
        created_at=created_at,
    )

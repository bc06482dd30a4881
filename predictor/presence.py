"""Tells others which models this predictor serves: the gRPC health service, by model, and the registry, by lease.

A model's health, and what the lease says, is of each of its versions: the service `iris` is the version that requests
without one get, and `iris/versions/2` version 2, as in the paths of the Open Inference Protocol.

Follows what it is told of the models; decides nothing.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterable
from typing import Protocol

from mesh.v1.registry_pb2 import ServedModel
from predictor.loader import ModelSpec


class Health(Protocol):
    """The part of the health service that is needed: `mesh.serve.Health`."""

    def set(self, name: str, serving: bool) -> Awaitable[None]: ...


class Lease(Protocol):
    """The part of an announcer that is needed: `mesh.announce.Announcer`."""

    async def start(self) -> None: ...

    async def set_models(self, models: list[ServedModel]) -> None: ...

    async def withdraw(self) -> None: ...


class Presence:
    """Starts with every model not ready; `model_changed` is the repository's OnChange."""

    def __init__(self, health: Health, specs: Iterable[ModelSpec]) -> None:
        self._health = health
        self._lease: Lease | None = None
        self._models: dict[str, ServedModel] = {}
        self._deployed: dict[str, str] = {}
        for spec in specs:
            self._models[_service(spec)] = ServedModel(name=spec.name, version=spec.version)
            self._deployed.setdefault(spec.name, spec.version)  # the first is the one that a deployment points to

    async def model_changed(self, spec: ModelSpec, is_ready: bool) -> None:
        self._models[_service(spec)].ready = is_ready
        await self._health.set(_service(spec), is_ready)
        if spec.version == self._deployed[spec.name]:
            await self._health.set(spec.name, is_ready)
        if self._lease is not None:
            await self._lease.set_models(list(self._models.values()))

    async def announce(self, lease: Lease) -> None:
        """Take the lease and keep it informed until `withdraw`."""
        self._lease = lease
        await lease.set_models(list(self._models.values()))
        await lease.start()

    async def withdraw(self) -> None:
        """Give the lease back. Safe to call twice, and without one."""
        lease, self._lease = self._lease, None
        if lease is not None:
            await lease.withdraw()


def _service(spec: ModelSpec) -> str:
    """Name of one version in the health service."""
    return f"{spec.name}/versions/{spec.version}"

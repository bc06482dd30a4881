"""Which models are ready, as the replicas of predictors say it; and the gRPC health of each deployment that follows.

A deployment is SERVING while a predictor has ready what requests without a version get.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from mesh.deployments import versions_of
from mesh.v1.registry_pb2 import SERVICE_KIND_PREDICTOR
from mesh.view import MeshView

SetHealth = Callable[[str, bool], Awaitable[None]]


class ModelHealth:
    """Owns the task that tells the health service. A deployment that was removed stays, NOT_SERVING."""

    def __init__(self, view: Callable[[], MeshView], set_health: SetHealth) -> None:
        self._view = view
        self._set_health = set_health
        self._told: dict[str, bool] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Tell the health service now and after each `notice`."""
        self._changed.set()
        self._task = asyncio.create_task(self._follow())

    def notice(self, _view: MeshView) -> None:
        """The view has changed. Cheap: meant as a callback of Discovery."""
        self._changed.set()

    async def close(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            await self._changed.wait()
            self._changed.clear()
            for name, is_ready in (dict.fromkeys(self._told, False) | readiness(self._view())).items():
                if self._told.get(name) != is_ready:
                    self._told[name] = is_ready
                    await self._set_health(name, is_ready)


def readiness(view: MeshView) -> dict[str, bool]:
    """For each deployment, whether a predictor has its model ready."""
    return {name: is_ready(view, name) for name in view.deployments}


def is_ready(view: MeshView, name: str, version: str = "") -> bool:
    """True when a predictor has that version of a deployment's model ready; empty: what requests without one get.

    Where no predictor holds the version that the deployment points to, that is whatever they hold. False for what is
    not deployed.
    """
    if name not in view.deployments:
        return False
    replicas = view.replicas_of(SERVICE_KIND_PREDICTOR)
    models = [model for replica in replicas for model in replica.models if model.name == name]
    wanted = version or versions_of(view.deployments[name])[0]
    asked = [model for model in models if model.version == wanted]
    return any(model.ready for model in (asked if asked or version else models))

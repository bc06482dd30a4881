"""gRPC health of each deployment, kept in step with the view: SERVING while a predictor has the model ready."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gateway.dataplane import Dataplane

SetHealth = Callable[[str, bool], Awaitable[None]]


class DeploymentHealth:
    """Owns the task that tells the health service. A deployment that was removed stays NOT_SERVING."""

    def __init__(self, dataplane: Dataplane, set_health: SetHealth) -> None:
        self._dataplane = dataplane
        self._set_health = set_health
        self._told: dict[str, bool] = {}
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Tell the health service now and after each `notice`."""
        self._changed.set()
        self._task = asyncio.create_task(self._follow())

    def notice(self, _view: object = None) -> None:
        """The view has changed. Cheap: safe as a callback of Discovery."""
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
            current = {one.name: self._dataplane.is_ready(one.name) for one in self._dataplane.deployments()}
            for name in self._told.keys() - current.keys():
                current[name] = False
            for name, is_ready in current.items():
                if self._told.get(name) != is_ready:
                    await self._set_health(name, is_ready)
                    self._told[name] = is_ready

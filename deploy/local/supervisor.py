"""The supervisor: all services of one mesh on one machine, started in order, kept alive, and stopped in order.

Ready means that each service says SERVING and each model either serves or has failed with a reason: nothing is
concluded from the time that passed. Restarting is for crashes on this machine; scheduling is a cluster's work.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field

from deploy.local.backoff import BackoffPolicy
from deploy.local.commands import GRACE_S, ServiceSpec
from deploy.local.events import MeshReady, ModelServing, Report, StillWaiting, Warned
from deploy.local.process import Sleep
from deploy.local.run_info import DeploymentInfo, RunInfo, write_run_info
from deploy.local.service import Service
from deploy.local.silence import SilencePolicy
from deploy.local.state_dir import StateDir
from mesh.errors import Unavailable


class StartFailed(Unavailable):
    """A service cannot be brought to serve; the sentence names it and its last words."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long the supervisor waits for what, in seconds."""

    start_s: float = 120.0
    stop_s: float = GRACE_S + 3.0
    reminder_s: float = 10.0
    impatient_s: float = 1.0
    num_starts: int = 3
    backoff: BackoffPolicy = field(default_factory=BackoffPolicy)
    silence: SilencePolicy = field(default_factory=SilencePolicy)


class Supervisor:
    """Runs the services of `specs` until `request_stop`."""

    def __init__(
        self,
        specs: Sequence[ServiceSpec],
        state: StateDir,
        deployments: Sequence[DeploymentInfo],
        gateway_url: str,
        report: Report,
        *,
        prepare: Callable[[], Awaitable[None]] | None = None,
        after_start: Mapping[str, Callable[[], Awaitable[None]]] | None = None,
        patience: Patience | None = None,
        now: Callable[[], float] = time.monotonic,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._state = state
        self._deployments = deployments
        self._gateway_url = gateway_url
        self._report = report
        self._prepare = prepare
        self._after_start = dict(after_start or {})
        self._patience = patience or Patience()
        self._now = now
        self._started_at = time.time()
        self._changed = asyncio.Event()
        self._dirty = asyncio.Event()
        self._stop_requested = asyncio.Event()
        self._stop_requested_at = 0.0
        self._is_over = False
        self._models = tuple(deployment.name for deployment in deployments)
        self._serving_models: set[str] = set()
        self.services = {
            spec.name: Service(
                spec,
                report,
                self._on_change,
                self._patience.backoff,
                self._patience.silence,
                now=now,
                sleep=sleep,
            )
            for spec in specs
        }

    async def run(self) -> None:
        """Start everything, report MeshReady, serve until a stop is requested, stop everything.

        Raises StartFailed when a service never comes to serve. No process is left in any case.
        """
        writing = asyncio.create_task(self._keep_run_info(), name="write run info")
        try:
            await self._unless_stopped(self._start())
            await self._stop_requested.wait()
        finally:
            await self._stop_all()
            self._is_over = True
            self._dirty.set()
            await writing
            self._state.run_file.unlink(missing_ok=True)

    def request_stop(self) -> None:
        """Stop in order; asked again after `impatient_s`, kill everything at once."""
        # One Ctrl-C may come as two signals: from the terminal, and from a `make` or `timeout` that passes it on.
        if self._stop_requested.is_set() and self._now() - self._stop_requested_at >= self._patience.impatient_s:
            for service in self.services.values():
                service.kill()
        if not self._stop_requested.is_set():
            self._stop_requested_at = self._now()
        self._stop_requested.set()

    def awaited(self) -> tuple[str, ...]:
        """What is missing until the mesh is ready, in words; empty when it is ready."""
        services = [
            f"{service.spec.name} ({service.state.value})" for service in self.services.values() if not service.serves()
        ]
        models = [
            f"{model} ({self._progress_of(model)})"
            for model in self._models
            if model not in self._serving_models and self._failure_of(model) is None
        ]
        return (*services, *models)

    async def _start(self) -> None:
        if self._prepare is not None:
            await self._prepare()
        started = self._now()
        for service in self.services.values():
            for name in service.spec.after:
                await self._until(self.services[name].serves, started)
                await self._after_start_of(name)
            service.start()
        await self._until(lambda: not self.awaited(), started)
        self._report(MeshReady(self._now() - started, self._info()))

    async def _after_start_of(self, name: str) -> None:
        """Do, once, what is to be done when `name` serves and before those that need it start."""
        work = self._after_start.pop(name, None)
        if work is not None:
            await work()

    async def _until(self, condition: Callable[[], bool], started: float) -> None:
        """Wait for `condition`, and say every `reminder_s` what is awaited. Raises StartFailed."""
        while not condition():
            self._raise_if_hopeless()
            self._changed.clear()
            try:
                async with asyncio.timeout(self._patience.reminder_s):
                    await self._changed.wait()
            except TimeoutError:
                self._report(StillWaiting(self.awaited(), self._now() - started))

    def _raise_if_hopeless(self) -> None:
        for service in self.services.values():
            reason = service.why_hopeless(self._patience.num_starts, self._patience.start_s)
            if reason is not None:
                words = f"; its last words: {service.last_words}" if service.last_words else ""
                raise StartFailed(f"{service.spec.name} {reason}{words}; its log is {service.spec.log_path}")

    async def _unless_stopped(self, work: Coroutine[None, None, None]) -> None:
        """Run `work`; drop it when a stop is requested."""
        working = asyncio.create_task(work)
        stopping = asyncio.create_task(self._stop_requested.wait())
        await asyncio.wait({working, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if working.done():
            working.result()
        working.cancel()
        await asyncio.wait({working})

    async def _stop_all(self) -> None:
        services, errors = self.services.values(), list[BaseException]()
        for wave in sorted({service.spec.stop_wave for service in services}):
            ending = [service for service in services if service.spec.stop_wave == wave]
            stops = (service.stop(self._patience.stop_s) for service in ending)
            results = await asyncio.gather(*stops, return_exceptions=True)
            errors += [result for result in results if result is not None]
        # Only now: whatever went wrong with one service, the others are to end.
        if errors:
            raise errors[0]

    def _on_change(self) -> None:
        self._changed.set()
        self._dirty.set()
        serving = {model for model in self._models if self._is_served(model)}
        for model in self._models:
            if model in serving - self._serving_models:
                self._report(ModelServing(model))
        self._serving_models = serving

    def _is_served(self, model: str) -> bool:
        holders = [each for each in self.services.values() if model in each.spec.health_names]
        return bool(holders) and all(model in each.serving_names for each in holders)

    def _failure_of(self, model: str) -> str | None:
        return next((each.failures[model] for each in self.services.values() if model in each.failures), None)

    def _progress_of(self, model: str) -> str:
        found = (each.progress[model] for each in self.services.values() if model in each.progress)
        return next((progress.words for progress in found), "not loaded yet")

    async def _keep_run_info(self) -> None:
        """Write `run.json` after changes, off the event loop. A disk that refuses costs `status`, not the mesh."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            if self._is_over:
                return
            try:
                await asyncio.to_thread(write_run_info, self._state.run_file, self._info())
            except OSError as error:
                self._report(Warned(f"cannot write {self._state.run_file}: {error.strerror}"))

    def _info(self) -> RunInfo:
        return RunInfo(
            pid=os.getpid(),
            started_at=self._started_at,
            gateway_url=self._gateway_url,
            services=tuple(service.info() for service in self.services.values()),
            deployments=tuple(
                dataclasses.replace(each, failure=self._failure_of(each.name)) for each in self._deployments
            ),
        )

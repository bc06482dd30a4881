"""One supervised service: its process kept alive, its health watched, its models' news read from its log.

Joins `process` (it runs) with `health` (it answers). States are what the service itself says; nothing is assumed from
the time that passed.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from enum import Enum

import grpc.aio

from deploy.local.backoff import BackoffPolicy
from deploy.local.commands import ServiceSpec
from deploy.local.events import (
    ModelFailed,
    ModelProgress,
    Report,
    ServiceEnded,
    ServiceKilled,
    ServiceServing,
    ServiceSilent,
    ServiceStarted,
    ServiceStopping,
    Warned,
)
from deploy.local.health import Health, wait_for_ready_file, watch
from deploy.local.log_line import model_event, readable
from deploy.local.process import KeptProcess, Sleep
from deploy.local.run_info import ServiceInfo
from deploy.local.silence import Silence, SilencePolicy
from mesh.channel import open_channel

_BAD_SETTING = 2


class ServiceState(Enum):
    """Where a service is in its life."""

    PENDING = "pending"
    STARTING = "starting"
    SERVING = "serving"
    NOT_SERVING = "not serving"
    RESTARTING = "restarting"
    STOPPED = "stopped"


class Service:
    """One service of the mesh. `changed` is called after every change of its state or its models."""

    def __init__(
        self,
        spec: ServiceSpec,
        report: Report,
        changed: Callable[[], None],
        backoff: BackoffPolicy,
        silence: SilencePolicy | None = None,
        *,
        now: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self.spec = spec
        self.state = ServiceState.PENDING
        self.has_served = False
        self.serving_names: set[str] = set()
        self.progress: dict[str, ModelProgress] = {}
        self.failures: dict[str, str] = {}
        self._report = report
        self._changed = changed
        self._now = now
        self._wall_clock = wall_clock
        self._started = 0.0
        self._started_at: float | None = None
        self._first_started: float | None = None
        self._failed_starts: list[str] = []
        self._has_bad_settings = False
        self._process = KeptProcess(spec.command, self, spec.log_path, backoff, now=now, sleep=sleep)
        self._running: asyncio.Task[None] | None = None
        self._following: asyncio.Task[None] | None = None
        self._silence = Silence(silence or SilencePolicy(), self._tell_silence, self._replace_frozen)

    def serves(self) -> bool:
        """Whether it says SERVING now."""
        return self.state is ServiceState.SERVING

    def start(self) -> None:
        """Begin to keep the service alive."""
        self._first_started = self._now()
        self.spec.ready_file.unlink(missing_ok=True)
        self._set_state(ServiceState.STARTING)
        self._running = asyncio.create_task(self._process.run(), name=f"keep {self.spec.name}")

    async def stop(self, patience_s: float) -> None:
        """End the service; kill it when it has not ended after `patience_s` seconds. Raises what broke its keeper."""
        if self._running is None:
            return
        self._report(ServiceStopping(self.spec.name))
        await self._unfollow()
        self._silence.end()
        if not await self._process.stop(patience_s):
            self._report(ServiceKilled(self.spec.name, patience_s))
        # Once more: a process that was just being started is followed from then on.
        await self._unfollow()
        self.spec.ready_file.unlink(missing_ok=True)
        self._set_state(ServiceState.STOPPED)
        await self._running

    def kill(self) -> None:
        """End the service now, and do not start it again."""
        self._process.kill()

    def why_hopeless(self, num_starts: int, start_s: float) -> str | None:
        """Why the service will not come to serve: `num_starts` vain starts, or `start_s` seconds; None while it may."""
        if self.has_served or self._first_started is None:
            return None
        if self._has_bad_settings or len(self._failed_starts) >= num_starts:
            times = f", {len(self._failed_starts)} times" if len(self._failed_starts) > 1 else ""
            return f"{self._failed_starts[-1]} before it served{times}"
        if self._now() - self._first_started >= start_s:
            return f"does not serve after {start_s:g} s"
        return None

    @property
    def last_words(self) -> str:
        """The last line of its log that is not empty, as a person reads it."""
        return next((words for line in reversed(self._process.last_lines) if (words := readable(line))), "")

    def info(self) -> ServiceInfo:
        """The service as other commands see it."""
        spec = self.spec
        return ServiceInfo(
            name=spec.name,
            state=self.state.value,
            pid=self._process.pid,
            started_at=self._started_at,
            restarts=self._process.restarts,
            grpc_address=spec.grpc_address,
            metrics_address=spec.metrics_address,
            http_address=spec.http_address,
            log=str(spec.log_path),
        )

    # What KeptProcess tells.

    def on_started(self, pid: int) -> None:
        self._started, self._started_at = self._now(), self._wall_clock()
        self.progress.clear()
        self.failures.clear()
        self._report(ServiceStarted(self.spec.name, pid))
        self._set_state(ServiceState.STARTING)
        self._following = asyncio.create_task(self._follow(pid), name=f"follow {self.spec.name}")

    def on_line(self, line: bytes) -> None:
        match model_event(line):
            case ModelProgress() as progress:
                self.progress[progress.model] = progress
                self._report(progress)
            case ModelFailed(model, reason) as failed:
                if self.failures.get(model) != reason:
                    self.failures[model] = reason
                    self._report(failed)
                    self._changed()

    def on_ended(self, how: str, returncode: int, restart_in_s: float) -> None:
        if self._following is not None:
            self._following.cancel()
        self._silence.end()
        self.serving_names.clear()
        self.spec.ready_file.unlink(missing_ok=True)
        if not self.has_served:
            self._failed_starts.append(how)
            self._has_bad_settings = returncode == _BAD_SETTING
        self._report(ServiceEnded(self.spec.name, how, restart_in_s))
        self._set_state(ServiceState.RESTARTING)

    async def _follow(self, pid: int) -> None:
        """Watch the health of the service that runs as `pid`, overall and of each model, until cancelled."""
        address = await wait_for_ready_file(self.spec.ready_file, pid)
        async with open_channel(address) as channel, asyncio.TaskGroup() as watches:
            for name in ("", *self.spec.health_names):
                watches.create_task(self._watch(channel, name))

    async def _watch(self, channel: grpc.aio.Channel, name: str) -> None:
        async for health in watch(channel, name):
            is_serving = health is Health.SERVING
            (self.serving_names.add if is_serving else self.serving_names.discard)(name)
            if name == "":
                self._on_health(health)
            elif is_serving:
                self.failures.pop(name, None)
            self._changed()

    def _on_health(self, health: Health) -> None:
        if health is Health.SERVING:
            if self.state is ServiceState.STARTING or self._silence.is_told:
                seconds = self._now() - self._started
                self._report(ServiceServing(self.spec.name, self._shown_address, seconds, self._silence.is_told))
            self.has_served = True
            self._set_state(ServiceState.SERVING)
        elif self.state is ServiceState.SERVING:
            self._set_state(ServiceState.NOT_SERVING)
        self._silence.hear(health)

    def _tell_silence(self) -> None:
        if self.has_served:
            self._report(ServiceSilent(self.spec.name))

    def _replace_frozen(self) -> None:
        self._report(Warned(f"{self.spec.name} gives no answer any more: its process is replaced"))
        self._process.replace()

    @property
    def _shown_address(self) -> str:
        return self.spec.http_address or self.spec.grpc_address

    async def _unfollow(self) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)

    def _set_state(self, state: ServiceState) -> None:
        self.state = state
        self._changed()

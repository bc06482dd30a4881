"""Keeps an engine process alive: starts it, watches it, replaces it.

A process that ended, or that is silent for too long though it was asked, is replaced after a pause that doubles each
time. Knows nothing of requests: who has some on a dead engine learns of its death by the change of state.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from enum import Enum

from mesh import logs
from mesh.errors import MeshError, Unavailable
from predictor.llm.engine_process import EngineProcess
from predictor.llm.factory import Progress
from predictor.llm.inspection import Inspection
from predictor.llm.messages import (
    Command,
    EngineInfo,
    EngineSpec,
    LoadFailed,
    Loading,
    Message,
    Ping,
    Ready,
    Report,
    Stop,
)

STOP_TIMEOUT_S = 5.0


class EngineState(Enum):
    STOPPED = "stopped"  # not started yet, or stopped on purpose
    LOADING = "loading"  # a process is up and not ready
    READY = "ready"
    DEAD = "dead"  # the process ended or hung; another follows


class EngineSupervisor:
    """Use it from one event loop, on which the callbacks run.

    on_report is called with what a ready engine says, on_state with each new state. A change to DEAD comes before
    anything is heard of the next process.
    """

    def __init__(
        self,
        spec: EngineSpec,
        on_report: Callable[[Report | Inspection], None],
        on_state: Callable[[EngineState], None],
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.state = EngineState.STOPPED
        self.info: EngineInfo | None = None
        self._spec = spec
        self._settings = spec.settings
        self._on_report = on_report
        self._on_state = on_state
        self._now = now
        self._log = logs.get_logger(__name__)
        self._process: EngineProcess | None = None
        self._ready: asyncio.Future[EngineInfo] | None = None
        self._progress: Progress = lambda stage, share: None
        self._num_heard = 0
        self._keeper: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        return None if self._process is None else self._process.pid

    async def start(self, progress: Progress) -> EngineInfo:
        """Start the engine and wait until it is ready.

        Raises what loading raised (CorruptArtifact, Unsupported, NotFound, InvalidInput …), or Unavailable when the
        process ended or fell silent. After that nothing runs.
        """
        if self._keeper is not None or self._process is not None:
            raise RuntimeError("the engine is started already")
        self._progress = progress
        try:
            process = await self._launch()
        except MeshError:
            self._set_state(EngineState.STOPPED)
            raise
        self._keeper = asyncio.create_task(self._keep_alive(process), name="engine-supervisor")
        assert self.info is not None
        return self.info

    async def stop(self) -> None:
        """End the engine, whatever still runs on it. Safe to call twice, and while it starts."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
            self._keeper = None
        process = self._process
        if process is not None:
            process.send(Stop())
            await process.wait_exited(STOP_TIMEOUT_S)
            await process.end()
            self._process = None
        self._set_state(EngineState.STOPPED)

    def send(self, command: Command) -> None:
        """Send to the engine that runs; what no engine hears is lost."""
        if self._process is not None:
            self._process.send(command)

    async def _keep_alive(self, process: EngineProcess) -> None:
        num_failures = 0
        while True:
            ready_at = self._now()
            reason = await self._watch(process)
            self._set_state(EngineState.DEAD)
            status = await process.end()
            self._process = None
            self._log.error("engine_died", reason=reason, exit_status=status)
            if self._now() - ready_at > self._settings.max_restart_delay_s:
                num_failures = 0
            process, num_failures = await self._launch_again(num_failures)

    async def _launch_again(self, num_failures: int) -> tuple[EngineProcess, int]:
        """Start engines until one is ready; returns it and how many pauses there have been."""
        while True:
            delay_s = min(self._settings.restart_delay_s * 2**num_failures, self._settings.max_restart_delay_s)
            num_failures = min(num_failures + 1, 30)
            self._log.info("engine_restarts", delay_s=delay_s)
            await asyncio.sleep(delay_s)
            try:
                return await self._launch(), num_failures
            except Exception:  # the top of the task that keeps the engine: whatever it was, the next start may succeed
                self._log.debug("engine_launch_failed", exc_info=True)

    async def _launch(self) -> EngineProcess:
        """Start a process and wait until it is ready. Raises MeshError when it is not going to be; then it is gone."""
        ready = self._ready = asyncio.get_running_loop().create_future()
        self._set_state(EngineState.LOADING)
        process = None
        try:
            process = self._process = EngineProcess(self._spec, self._on_message, self._on_exit)
            self.info = await self._loaded(ready)
        except BaseException as error:
            ready.cancel()  # nobody waits for it any more, and the end of the process would still set it
            self._log.error("engine_not_loaded", reason=str(error) or type(error).__name__)
            self._set_state(EngineState.DEAD)
            if process is not None:
                await process.end()
            self._process = None
            raise
        self._set_state(EngineState.READY)
        return process

    async def _loaded(self, ready: asyncio.Future[EngineInfo]) -> EngineInfo:
        timeout_s = self._settings.load_timeout_s
        while True:
            num_heard = self._num_heard
            done, _ = await asyncio.wait({ready}, timeout=timeout_s)
            if done:
                return ready.result()
            if num_heard == self._num_heard:
                raise Unavailable(f"the engine has said nothing for {timeout_s:g} s while it loads")

    async def _watch(self, process: EngineProcess) -> str:
        """Returns when the process ended or hangs, with a word for it.

        Silence is counted in heartbeats that went unanswered, not in time that passed: after a pause of this process
        the engine gets to answer first.
        """
        interval_s = self._settings.heartbeat_interval_s
        silent_s = 0.0
        while silent_s < self._settings.heartbeat_timeout_s:
            num_heard = self._num_heard
            process.send(Ping())
            if await process.wait_exited(interval_s):
                return "ended"
            silent_s = silent_s + interval_s if num_heard == self._num_heard else 0.0
        return "hung"

    def _on_message(self, message: Message) -> None:
        self._num_heard += 1
        if isinstance(message, Report | Inspection):
            if self.state is EngineState.READY:  # one given up for hung may yet finish its step before it is killed
                self._on_report(message)
        elif isinstance(message, Loading):
            self._progress(message.stage, message.share)
        elif self._ready is None or self._ready.done():
            return
        elif isinstance(message, Ready):
            self._ready.set_result(message.info)
        elif isinstance(message, LoadFailed):
            self._ready.set_exception(message.error)

    def _on_exit(self) -> None:
        if self._ready is not None and not self._ready.done():
            self._ready.set_exception(Unavailable("the engine process ended while it loaded"))

    def _set_state(self, state: EngineState) -> None:
        if state is not self.state:
            self.state = state
            self._on_state(state)

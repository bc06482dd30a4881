"""Brings models into memory and out of it: one load at a time for each, its failures remembered, its room made first.

Decides when a failed load is tried again, by itself after a growing delay (as Kubernetes restarts what crashes). Which
model a request means, and who may wait for it, is the repository's affair.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

from mesh.errors import Internal, MeshError, ModelNotReady, ModelTooLarge, Unavailable
from mesh.logs import get_logger
from mesh.retry import Backoff
from predictor.loader import LoadedModel, MakeRoom, ModelSpec
from predictor.model_entry import Entry, Loading, Resident
from predictor.model_memory import ModelMemory, NoRoom
from predictor.residency import Slot
from predictor.runtimes.base import OnHealth

log = get_logger(__name__)

FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 300.0


class Loader(Protocol):
    """What makes a model ready: `predictor.loader.ModelLoader`."""

    async def load(self, spec: ModelSpec, on_health: OnHealth, make_room: MakeRoom) -> LoadedModel:
        """The loaded model; awaits `make_room` once before it takes memory. Raises MeshError and leaves nothing."""
        ...


# Called after each change of a model's readiness, with what it is and whether it is ready.
OnChange = Callable[[ModelSpec, bool], Awaitable[None]]


class ModelLoads:
    """Owns the tasks that load, unload and tell. Not thread-safe: one event loop calls everything.

    budget_bytes: for all models in memory; 0 means without end. unload_timeout_s: that requests get before their model
    is unloaded under them. wait_s: longest that a load waits for room.
    """

    def __init__(
        self,
        loader: Loader,
        on_change: OnChange,
        *,
        budget_bytes: int,
        unload_timeout_s: float,
        wait_s: float,
        backoff: Callable[[], Backoff] = lambda: Backoff(FIRST_RETRY_S, LONGEST_RETRY_S),
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.memory = ModelMemory(budget_bytes, self._evict, wait_s=wait_s)
        self._loader = loader
        self._on_change = on_change
        self._unload_timeout_s = unload_timeout_s
        self._make_backoff = backoff
        self._now = now
        self._residents: dict[Slot, Resident] = {}
        self._backoffs: dict[Entry, Backoff] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closed = False

    def start(self, entry: Entry, *, is_wanted: bool) -> Loading:
        """The load of `entry` that is in progress, or a new one. is_wanted: it goes on although no request waits."""
        if self._is_closed:
            raise Unavailable("the predictor is stopping")
        loading = entry.loading
        if loading is None:
            self._stop_retry(entry)
            loading = entry.loading = Loading()
            loading.task = self._spawn(self._load(entry, loading), f"load {entry.spec.name}")
        loading.is_wanted |= is_wanted
        return loading

    def give_up(self, entry: Entry, loading: Loading) -> None:
        """A request does not wait for `loading` any more. What nobody waits for does not wait for room, either."""
        if loading.resident is not None:
            self.release(loading.resident)
            return
        loading.num_waiting -= 1
        if loading.is_abandoned and loading.waits_for_room and loading.task is not None:
            if entry.loading is loading:
                entry.loading = None  # a request that comes now needs a load of its own
            loading.task.cancel()

    def release(self, resident: Resident) -> None:
        """The end of what `memory.acquire` began."""
        self.memory.release(resident.slot)
        if resident.idle is not None and not resident.slot.num_holds:
            resident.idle.set()

    async def unload(self, entry: Entry) -> None:
        """Take the model out, when its last request let go or time is up; it stays out until it is loaded again."""
        self._stop_retry(entry)
        self._forget_failures(entry)
        entry.is_unloaded, entry.statistics = True, None
        resident, entry.resident = entry.resident, None
        if resident is not None:
            entry.is_unloading = True
            await self.tell(entry)
            await self._retire(resident)
            entry.is_unloading = False
        await self.tell(entry)

    async def tell(self, entry: Entry) -> None:
        """Tell others of the model's readiness, if it is not what they were told last."""
        is_ready = entry.is_ready
        if entry.told is not is_ready:
            entry.told = is_ready
            await self._on_change(entry.spec, is_ready)

    async def close(self) -> None:
        """Stop loading and unload everything."""
        self._is_closed = True
        # An eviction or the retirement of an old model ends by itself; loads and retries would not.
        for resident in self._residents.values():
            if resident.entry.resident is resident:
                resident.entry.resident = None
                self._spawn(self._retire(resident), "unload")
        tasks = [task for task in self._tasks if task.get_name().startswith(("load ", "retry "))]
        for task in tasks:
            task.cancel()
        while self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _load(self, entry: Entry, loading: Loading) -> None:
        started_s = self._now()
        previous = None
        try:
            await self.tell(entry)
            model, slot = await self._into_memory(entry, loading)
            seconds = self._now() - started_s
            previous = self._publish(entry, loading, model, slot)
        except asyncio.CancelledError:
            loading.error = ModelNotReady(f"the load of model '{entry.spec.name}' was stopped")
            raise
        except NoRoom as error:
            loading.error = error
            if entry.failure:
                self._retry_later(entry)
        except MeshError as error:
            log.error("model_failed", model=entry.spec.name, version=entry.spec.version, error=error.message)
            self._failed(entry, loading, error, error.message)
        except Exception as error:  # the top of a task: what went wrong is logged, and the other models go on
            log.error("model_failed", model=entry.spec.name, version=entry.spec.version, exc_info=error)
            internal = Internal(f"model '{entry.spec.name}' failed to load unexpectedly; the logs have it")
            internal.__cause__ = error
            self._failed(entry, loading, internal, "an unexpected failure; the logs have it")
        else:
            entry.counts.load_s += seconds
            log.info("model_loaded", model=entry.spec.name, version=entry.spec.version, seconds=round(seconds, 3))
        finally:
            if entry.loading is loading:
                entry.loading = None
            loading.finished.set()
        await self.tell(entry)
        if previous is not None:
            await self._retire(previous)

    async def _into_memory(self, entry: Entry, loading: Loading) -> tuple[LoadedModel, Slot]:
        """The model, in a slot of its size. One that turns out larger, without room for it, is loaded once more."""

        async def make_room(disk_bytes: int) -> None:
            if loading.is_abandoned:
                raise NoRoom("nobody waits for the model any more")
            loading.slot = self.memory.want(entry.known_bytes or disk_bytes)
            await self.memory.wait_for(loading.slot)

        while True:
            try:
                model = await self._loader.load(entry.spec, partial(self._on_health, entry, loading), make_room)
                entry.known_bytes = model.runtime.memory_bytes
            except BaseException:
                if loading.slot is not None:
                    self.memory.left(loading.slot)
                raise
            assert loading.slot is not None, "a loader makes room before it loads"
            if self.memory.loaded(loading.slot, entry.known_bytes):
                return model, loading.slot
            await self._out_of_memory(model, loading.slot)

    def _publish(self, entry: Entry, loading: Loading, model: LoadedModel, slot: Slot) -> Resident | None:
        """Requests find the model from now on, and those that waited hold it. Returns the one that was there before."""
        if entry.statistics is not None:  # of a model that was evicted, and is back
            model, entry.statistics = replace(model, statistics=entry.statistics), None
        resident = Resident(entry, loading, model, slot)
        for _ in range(loading.num_waiting):
            self.memory.acquire(slot)
        self._residents[slot] = loading.resident = resident
        entry.metadata = model.metadata
        previous, entry.resident, entry.loading = entry.resident, resident, None
        entry.is_unloaded = False
        entry.counts.loaded += 1
        self._forget_failures(entry)
        self.memory.serve_waiting()
        return previous

    def _forget_failures(self, entry: Entry) -> None:
        entry.failure = ""
        self._backoffs.pop(entry, None)

    def _failed(self, entry: Entry, loading: Loading, error: MeshError, reason: str) -> None:
        loading.error = error
        entry.failure = reason
        entry.is_unloaded = False
        entry.counts.failed += 1
        if not isinstance(error, ModelTooLarge):  # which it will be the next time, too
            self._retry_later(entry)

    def _retry_later(self, entry: Entry) -> None:
        if not entry.is_on_demand or entry.resident is not None or self._is_closed:
            return
        delay_s = self._backoffs.setdefault(entry, self._make_backoff()).next_s()
        log.info("model_load_delayed", model=entry.spec.name, version=entry.spec.version, seconds=round(delay_s, 3))
        entry.retry = self._spawn(self._retry(entry, delay_s), f"retry {entry.spec.name}")

    async def _retry(self, entry: Entry, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        entry.retry = None
        self.start(entry, is_wanted=True)

    def _stop_retry(self, entry: Entry) -> None:
        retry, entry.retry = entry.retry, None
        if retry is not None:
            retry.cancel()

    def _on_health(self, entry: Entry, loading: Loading, is_healthy: bool, reason: str) -> None:
        """A loaded model was lost, or is back; its requests are refused meanwhile."""
        resident = entry.resident
        if resident is None or resident.loading is not loading:
            return
        resident.lost_reason = "" if is_healthy else reason or "lost"
        log.warning("model_health", model=entry.spec.name, is_healthy=is_healthy, reason=reason)
        self._spawn(self.tell(entry), "tell")

    def _evict(self, slot: Slot) -> None:
        resident = self._residents[slot]
        entry = resident.entry
        entry.counts.evicted += 1
        entry.statistics = resident.model.statistics
        log.info("model_evicted", model=entry.spec.name, version=entry.spec.version)
        if entry.resident is resident:
            entry.resident = None
        self._spawn(self._retire(resident), "evict")
        self._spawn(self.tell(entry), "tell")  # a model that was lost can be loaded on demand now

    async def _retire(self, resident: Resident) -> None:
        """Unload a model that new requests cannot find any more, once the last holder let go or time is up."""
        slot = resident.slot
        self.memory.leave(slot)
        if slot.num_holds:
            resident.idle = asyncio.Event()
            try:
                await asyncio.wait_for(resident.idle.wait(), self._unload_timeout_s)
            except TimeoutError:
                log.warning("model_unloaded_in_use", model=resident.model.spec.name, requests=slot.num_holds)
        await self._out_of_memory(resident.model, slot)
        log.info("model_unloaded", model=resident.model.spec.name, version=resident.model.spec.version)

    async def _out_of_memory(self, model: LoadedModel, slot: Slot) -> None:
        try:
            await model.unload()
        finally:
            self._residents.pop(slot, None)
            self.memory.left(slot)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("model_task_failed", task=task.get_name(), exc_info=task.exception())

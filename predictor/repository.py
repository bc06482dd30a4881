"""The models of this predictor by name and version: found, held while they are used, loaded and unloaded.

Without a memory budget every model is loaded at the start. With one, the first request for a model has it loaded, and
models that nobody uses leave memory for others. One broken model does not stop the others: it is UNAVAILABLE with a
reason. How a model gets into memory and out of it is not known here but in `predictor.model_loads`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from types import TracebackType

from mesh import context
from mesh.errors import Conflict, ModelNotReady, Overloaded
from mesh.retry import Backoff
from predictor.loader import LoadedModel, ModelSpec
from predictor.model_entry import Entry, LoadCounts, ModelState, ModelStatus, Resident
from predictor.model_loads import FIRST_RETRY_S, LONGEST_RETRY_S, Loader, ModelLoads, OnChange
from predictor.model_versions import ModelVersions
from predictor.runtimes.base import ModelMetadata

__all__ = ["Hold", "Loader", "ModelRepository", "ModelState", "ModelStatus", "OnChange"]

# What is left of a request's time for its way back, so that the caller gets a sentence and not only a deadline.
_WAIT_SHARE = 0.9


class ModelRepository:
    """Not thread-safe: one event loop calls everything; what only reads plain facts may be called from any thread.

    memory_budget_bytes: for all models in memory; 0 means without end. load_wait_s: longest that a request, or a load,
    waits. max_waiting: requests that may wait at the same time.
    """

    def __init__(
        self,
        specs: Iterable[ModelSpec],
        loader: Loader,
        on_change: OnChange,
        *,
        unload_timeout_s: float = 60.0,
        memory_budget_bytes: int = 0,
        load_wait_s: float = 300.0,
        max_waiting: int = 1024,
        backoff: Callable[[], Backoff] = lambda: Backoff(FIRST_RETRY_S, LONGEST_RETRY_S),
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        """Of several specs with one name, the first is the version that requests without one get."""
        self._is_on_demand = memory_budget_bytes > 0
        self._versions = ModelVersions((spec, Entry(spec, self._is_on_demand)) for spec in specs)
        self._loads = ModelLoads(
            loader,
            on_change,
            budget_bytes=memory_budget_bytes,
            unload_timeout_s=unload_timeout_s,
            wait_s=load_wait_s,
            backoff=backoff,
            now=now,
        )
        self._memory = self._loads.memory
        self._load_wait_s = load_wait_s
        self._max_waiting = max_waiting
        self._num_waiting = 0
        self._is_settled = False
        self._is_draining = False

    @property
    def is_ready(self) -> bool:
        """True once every model was tried, or may be loaded on demand; until the drain."""
        return self._is_settled and not self._is_draining

    @property
    def memory_budget_bytes(self) -> int:
        return self._memory.budget_bytes

    @property
    def memory_used_bytes(self) -> int:
        """What loading, loaded and leaving models take of memory, as far as it is known."""
        return self._memory.used_bytes

    @property
    def num_waiting(self) -> int:
        """Requests that wait for their model to be loaded."""
        return self._num_waiting

    def index(self) -> list[ModelStatus]:
        """All versions of all models, in the order in which the models were deployed."""
        return [entry.status for entry in self._versions]

    def load_counts(self) -> list[tuple[ModelSpec, LoadCounts]]:
        """What became of each version's loads since the start."""
        return [(entry.spec, entry.counts) for entry in self._versions]

    def memory_by_model(self) -> list[tuple[ModelSpec, int]]:
        """Bytes that each model in memory takes."""
        residents = [resident for entry in self._versions if (resident := entry.resident) is not None]
        return [(resident.model.spec, resident.slot.size_bytes) for resident in residents]

    def loaded(self, name: str = "", version: str = "") -> list[LoadedModel]:
        """The models in memory: all, or the versions of one, or one version.

        Raises as `get` for a name whose models cannot answer; one that is not in memory now is just not there.
        """
        entries = self._versions.find_all(name, version) if name else list(self._versions)
        residents = [resident for entry in entries if (resident := entry.resident) is not None]
        if name and not residents and not any(entry.is_ready for entry in entries):
            raise entries[0].not_ready()
        return [resident.model for resident in residents]

    def versions(self, name: str) -> list[str]:
        """The versions of a model, first the one that requests without a version get. Raises ModelNotFound."""
        return self._versions.names(name)

    async def metadata(self, name: str, version: str = "") -> ModelMetadata:
        """What a model takes and gives. Raises as `hold`.

        Loads a model that never was in memory. One that was evicted stays out: asking for all is no use of them.
        """
        entry = self._versions.find(name, version)
        if entry.resident is None and entry.may_load_on_demand and entry.metadata is not None:
            return entry.metadata
        async with self.hold(name, version) as model:
            return model.metadata

    def find(self, name: str, version: str = "") -> LoadedModel:
        """As `get`, also while the model is lost: to look at it, not to use it."""
        entry = self._versions.find(name, version)
        if entry.resident is None:
            raise entry.not_ready()
        return entry.resident.model

    def is_model_ready(self, name: str, version: str = "") -> bool:
        """True when a request would be answered, if need be after a load. False also for what does not exist."""
        entry = self._versions.get(name, version)
        return entry is not None and entry.is_ready and not self._is_draining

    def get(self, name: str, version: str = "") -> LoadedModel:
        """The model in memory that answers to `name` and `version` (empty: the one deployed).

        Raises ModelNotFound, InvalidInput for what is no version at all, and ModelNotReady with the reason.
        """
        entry = self._versions.find(name, version)
        if entry.resident is None or entry.resident.lost_reason:
            raise entry.not_ready()
        return entry.resident.model

    def hold(self, name: str, version: str = "") -> Hold:
        """`async with repository.hold(name, version) as model`: the model is not unloaded inside the block.

        Raises as `get`. With a memory budget, a model that is not in memory is loaded first, within the request's
        deadline; then also Overloaded, when too many requests wait or nothing can leave memory in time.
        """
        return Hold(self, name, version)

    async def acquire(self, name: str, version: str) -> Resident:
        """What `hold` begins with; `release` must follow."""
        entry = self._versions.find(name, version)
        resident = entry.resident
        if resident is None:
            resident = await self._on_demand(entry)
        else:
            self._memory.acquire(resident.slot)
        if resident.lost_reason:
            self._loads.release(resident)
            raise entry.not_ready()
        return resident

    def release(self, resident: Resident) -> None:
        """What `hold` ends with."""
        self._loads.release(resident)

    async def load_all(self) -> None:
        """Try every model once, or make it known that requests may; failures are in the index."""
        entries = list(self._versions)
        if self._is_on_demand:
            for entry in entries:
                await self._loads.tell(entry)
        else:
            await asyncio.gather(*(self._load(entry) for entry in entries), return_exceptions=True)
        self._is_settled = True

    async def load(self, name: str, version: str = "") -> None:
        """Load a model, or load it again: then the old one answers until the new one is ready, and stays if it fails.

        version: empty for all versions. Calls for one model at the same time are one load. When the budget has no room
        for both, the old one is evicted first. Raises what the load failed with.
        """
        entries = self._versions.find_all(name, version)
        errors = await asyncio.gather(*(self._load(entry) for entry in entries), return_exceptions=True)
        for error in errors:
            if error is not None:
                raise error

    async def unload(self, name: str, version: str = "") -> None:
        """New requests get ModelNotReady at once; running ones end first, up to the unload timeout.

        version: empty for all versions. The model stays unloaded until `load`, whatever is requested.
        """
        entries = self._versions.find_all(name, version)
        if any(entry.loading is not None for entry in entries):
            raise Conflict(f"model '{name}' is being loaded; unload it when that is done")
        unloaded = [entry for entry in entries if entry.resident is not None or self._is_on_demand]
        await asyncio.gather(*(self._loads.unload(entry) for entry in unloaded))

    def drain(self) -> None:
        """Say not ready from now on; running requests and new ones on open connections are still served."""
        self._is_draining = True

    async def close(self) -> None:
        """Stop loading and unload everything."""
        self._is_draining = True
        await self._loads.close()

    async def _load(self, entry: Entry) -> None:
        loading = self._loads.start(entry, is_wanted=True)
        assert loading.task is not None, "a load that has begun has its task"
        await asyncio.wait([loading.task])  # which a caller that goes away does not cancel
        if loading.error is not None:
            raise loading.error

    async def _on_demand(self, entry: Entry) -> Resident:
        """Wait for a load, begun if need be, and hold what it brings."""
        if not (entry.may_load_on_demand or (self._is_on_demand and entry.loading is not None)):
            raise entry.not_ready()
        if self._num_waiting >= self._max_waiting:
            raise Overloaded(f"{self._num_waiting} requests wait for models to be loaded; no more may wait")
        loading = self._loads.start(entry, is_wanted=False)
        wait_s = self._wait_s()
        self._num_waiting += 1
        loading.num_waiting += 1
        try:
            async with asyncio.timeout(wait_s):
                await loading.finished.wait()
        except TimeoutError:
            waited_for_room = loading.waits_for_room
            self._loads.give_up(entry, loading)
            if waited_for_room and loading.slot is not None:
                raise self._memory.no_room(loading.slot, wait_s) from None
            raise ModelNotReady(f"model '{entry.spec.name}' was not loaded within {wait_s:.3g} s") from None
        except asyncio.CancelledError:
            self._loads.give_up(entry, loading)
            raise
        finally:
            self._num_waiting -= 1
        if loading.resident is not None:
            return loading.resident
        if not entry.failure and isinstance(loading.error, ModelNotReady | Overloaded):
            raise type(loading.error)(loading.error.message)  # one of its own for each request: it gets a traceback
        raise entry.not_ready()

    def _wait_s(self) -> float:
        left_s = context.remaining_s()
        return self._load_wait_s if left_s is None else min(self._load_wait_s, _WAIT_SHARE * left_s)


class Hold:
    """One use of a model; see `ModelRepository.hold`. Costs no task while the model is in memory."""

    __slots__ = ("_name", "_repository", "_resident", "_version")

    def __init__(self, repository: ModelRepository, name: str, version: str) -> None:
        self._repository = repository
        self._name = name
        self._version = version
        self._resident: Resident | None = None

    async def __aenter__(self) -> LoadedModel:
        self._resident = await self._repository.acquire(self._name, self._version)
        return self._resident.model

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._resident is not None, "a hold that was not taken is not let go"
        self._repository.release(self._resident)

"""The models of this predictor by name and version, their states, and their loading and unloading.

One broken model does not stop the others: it is UNAVAILABLE with a reason. A request holds the model that it uses, so
that it is not unloaded under it. The states are those of Triton's repository index.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Protocol

from mesh.errors import Conflict, Internal, InvalidInput, MeshError, ModelNotFound, ModelNotReady
from mesh.logs import get_logger
from predictor.loader import LoadedModel, ModelSpec
from predictor.runtimes.base import OnHealth

log = get_logger(__name__)


class ModelState(Enum):
    """The values are the names on the wire."""

    UNAVAILABLE = "UNAVAILABLE"
    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One line of the index. reason: why the model is in that state; empty when all is well."""

    name: str
    version: str
    state: ModelState
    reason: str


class Loader(Protocol):
    """What makes a model ready: `predictor.loader.ModelLoader`."""

    async def load(self, spec: ModelSpec, on_health: OnHealth) -> LoadedModel:
        """The loaded model; raises MeshError and leaves nothing behind."""
        ...


# Called after each change of a model's state, with what it is and whether it is ready.
OnChange = Callable[[ModelSpec, bool], Awaitable[None]]


class _Entry:
    """One model's place in the repository."""

    def __init__(self, spec: ModelSpec) -> None:
        self.spec = spec
        self.state = ModelState.UNAVAILABLE
        self.reason = "not loaded"
        self.model: LoadedModel | None = None
        self.load_id: object = None  # tells the model in place from one before or after it
        self.loading: asyncio.Task[None] | None = None


class _Use:
    """Counts the requests that hold a model, and tells when there is none."""

    def __init__(self) -> None:
        self.count = 0
        self.idle = asyncio.Event()
        self.idle.set()


class ModelRepository:
    """Not thread-safe: one event loop calls everything."""

    def __init__(
        self, specs: Iterable[ModelSpec], loader: Loader, on_change: OnChange, *, unload_timeout_s: float = 60.0
    ) -> None:
        self._entries = {spec.name: _Entry(spec) for spec in specs}
        self._loader = loader
        self._on_change = on_change
        self._unload_timeout_s = unload_timeout_s
        self._uses: dict[LoadedModel, _Use] = {}
        self._telling: set[asyncio.Task[None]] = set()
        self._is_settled = False
        self._is_draining = False

    @property
    def is_ready(self) -> bool:
        """True once every model was tried, until the drain."""
        return self._is_settled and not self._is_draining

    def index(self) -> list[ModelStatus]:
        """All models in the order in which they were deployed."""
        return [
            ModelStatus(entry.spec.name, entry.spec.version, entry.state, entry.reason)
            for entry in self._entries.values()
        ]

    def loaded(self) -> list[LoadedModel]:
        """The models that answer now."""
        return [entry.model for entry in self._entries.values() if entry.model is not None]

    def find(self, name: str, version: str = "") -> LoadedModel:
        """As `get`, also while the model is lost: to look at it, not to use it."""
        entry = self._find(name, version)
        if entry.model is None:
            raise self._not_ready(entry)
        return entry.model

    def is_model_ready(self, name: str, version: str = "") -> bool:
        """False also for what does not exist."""
        entry = self._entries.get(name)
        return (
            entry is not None
            and version in ("", entry.spec.version)
            and entry.state is ModelState.READY
            and not self._is_draining
        )

    def get(self, name: str, version: str = "") -> LoadedModel:
        """The model that answers to `name` and `version` (empty: the one deployed).

        Raises ModelNotFound, InvalidInput for what is no version at all, and ModelNotReady with the reason.
        """
        entry = self._find(name, version)
        if entry.model is None or entry.state is not ModelState.READY:
            raise self._not_ready(entry)
        return entry.model

    @asynccontextmanager
    async def hold(self, name: str, version: str = "") -> AsyncIterator[LoadedModel]:
        """As `get`, and the model is not unloaded inside the block."""
        model = self.get(name, version)
        use = self._uses[model]
        use.count += 1
        use.idle.clear()
        try:
            yield model
        finally:
            use.count -= 1
            if use.count == 0:
                use.idle.set()

    async def load_all(self) -> None:
        """Try every model once; failures are in the index."""
        tasks = [self._loading(entry) for entry in self._entries.values()]
        await asyncio.gather(*tasks, return_exceptions=True)
        self._is_settled = True

    async def load(self, name: str) -> None:
        """Load a model, or load it again: then the old one answers until the new one is ready, and stays if it fails.

        Calls for one model at the same time are one load.
        """
        await asyncio.shield(self._loading(self._find(name, "")))

    async def unload(self, name: str) -> None:
        """New requests get ModelNotReady at once; running ones end first, up to the unload timeout."""
        entry = self._find(name, "")
        if entry.loading is not None:
            raise Conflict(f"model '{name}' is being loaded; unload it when that is done")
        if entry.model is None:
            return
        model, entry.model = entry.model, None
        await self._set_state(entry, ModelState.UNLOADING, "")
        await self._retire(model)
        if entry.state is ModelState.UNLOADING:  # a load may have begun meanwhile
            await self._set_state(entry, ModelState.UNAVAILABLE, "unloaded")

    def drain(self) -> None:
        """Say not ready from now on; running requests and new ones on open connections are still served."""
        self._is_draining = True

    async def close(self) -> None:
        """Stop loading and unload everything."""
        self._is_draining = True
        loading = [entry.loading for entry in self._entries.values() if entry.loading is not None]
        for task in loading:
            task.cancel()
        await asyncio.gather(*loading, *self._telling, return_exceptions=True)
        for entry in self._entries.values():
            model, entry.model = entry.model, None
            if model is not None:
                await self._retire(model)

    @staticmethod
    def _not_ready(entry: _Entry) -> ModelNotReady:
        reason = f": {entry.reason}" if entry.reason else ""
        return ModelNotReady(f"model '{entry.spec.name}' is {entry.state.value.lower()}{reason}")

    def _find(self, name: str, version: str) -> _Entry:
        entry = self._entries.get(name)
        if entry is None:
            known = ", ".join(sorted(self._entries)) or "none"
            raise ModelNotFound(f"model '{name}' is not deployed; deployed: {known}", field="model_name")
        if version not in ("", entry.spec.version):
            if not (version.isascii() and version.isdecimal()):
                raise InvalidInput(f"'{version}' is no version; versions are whole numbers", field="model_version")
            raise ModelNotFound(
                f"model '{name}' has no version {version}; it has {entry.spec.version}", field="model_version"
            )
        return entry

    def _loading(self, entry: _Entry) -> asyncio.Task[None]:
        if entry.loading is None:
            entry.loading = asyncio.create_task(self._load(entry), name=f"load {entry.spec.name}")
            entry.loading.add_done_callback(lambda task: task.cancelled() or task.exception())
        return entry.loading

    async def _load(self, entry: _Entry) -> None:
        name = entry.spec.name
        started_s = asyncio.get_running_loop().time()
        try:
            if entry.model is None:
                await self._set_state(entry, ModelState.LOADING, "")
            load_id = object()
            model = await self._loader.load(entry.spec, partial(self._on_health, entry, load_id))
        except MeshError as error:
            log.error("model_failed", model=name, error=error.message)
            await self._failed(entry, error.message)
            raise
        except Exception as error:  # the top of a task: what went wrong is logged, and the other models go on
            log.error("model_failed", model=name, exc_info=error)
            await self._failed(entry, "an unexpected failure; the logs have it")
            raise Internal(f"model '{name}' failed to load unexpectedly; the logs have it") from error
        else:
            self._uses[model] = _Use()
            previous, entry.model, entry.load_id = entry.model, model, load_id
            await self._set_state(entry, ModelState.READY, "")
            seconds = asyncio.get_running_loop().time() - started_s
            log.info("model_loaded", model=name, version=entry.spec.version, seconds=round(seconds, 3))
            if previous is not None:
                await self._retire(previous)
        finally:
            entry.loading = None

    def _on_health(self, entry: _Entry, load_id: object, is_healthy: bool, reason: str) -> None:
        """A loaded model was lost, or is back; its requests are refused meanwhile."""
        if entry.load_id is not load_id or entry.model is None:
            return
        state = ModelState.READY if is_healthy else ModelState.UNAVAILABLE
        log.warning("model_health", model=entry.spec.name, is_healthy=is_healthy, reason=reason)
        telling = asyncio.create_task(self._set_state(entry, state, reason))
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)

    async def _failed(self, entry: _Entry, reason: str) -> None:
        if entry.model is None:
            await self._set_state(entry, ModelState.UNAVAILABLE, reason)
        else:
            entry.reason = f"the last load failed: {reason}"

    async def _retire(self, model: LoadedModel) -> None:
        """Unload a model that new requests cannot find any more, once the last holder let go or time is up."""
        use = self._uses.pop(model)
        try:
            await asyncio.wait_for(use.idle.wait(), self._unload_timeout_s)
        except TimeoutError:
            log.warning("model_unloaded_in_use", model=model.spec.name, requests=use.count)
        await model.unload()
        log.info("model_unloaded", model=model.spec.name, version=model.spec.version)

    async def _set_state(self, entry: _Entry, state: ModelState, reason: str) -> None:
        entry.state, entry.reason = state, reason
        await self._on_change(entry.spec, state is ModelState.READY)

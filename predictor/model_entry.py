"""One version of one model in the repository: what is true of it, and the state that follows from that.

Decides nothing and waits for nothing: the repository changes entries, and everybody else reads their status. The states
are those of Triton's repository index.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import Enum

from mesh.errors import MeshError, ModelNotReady
from predictor.loader import LoadedModel, ModelSpec
from predictor.residency import Phase, Slot
from predictor.runtimes.base import ModelMetadata
from predictor.statistics import ModelStatistics

# Reasons of models that are READY without being in memory: a request for them is answered, after their load.
ON_DEMAND = "not in memory; the next request loads it"
LOADING_ON_DEMAND = "not in memory; being loaded for a request"


class ModelState(Enum):
    """The values are the names on the wire."""

    UNAVAILABLE = "UNAVAILABLE"
    LOADING = "LOADING"
    READY = "READY"
    UNLOADING = "UNLOADING"


@dataclass(frozen=True, slots=True)
class ModelStatus:
    """One line of the index. reason: why the model is in that state; empty when all is well and in memory."""

    name: str
    version: str
    state: ModelState
    reason: str


@dataclass(slots=True)
class LoadCounts:
    """What became of the loads of one version since the start. load_s: seconds that the good ones took, in total."""

    loaded: int = 0
    failed: int = 0
    evicted: int = 0
    load_s: float = 0.0


@dataclass(slots=True, eq=False)
class Loading:
    """A load in progress, and afterwards what came of it: `resident` or `error`.

    num_waiting: requests that wait for it. is_wanted: it goes on although none waits.
    """

    finished: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None
    slot: Slot | None = None
    num_waiting: int = 0
    is_wanted: bool = False
    resident: Resident | None = None
    error: MeshError | None = None

    @property
    def waits_for_room(self) -> bool:
        return self.slot is not None and self.slot.phase is Phase.WAITING

    @property
    def is_abandoned(self) -> bool:
        return self.num_waiting == 0 and not self.is_wanted


@dataclass(slots=True, eq=False)
class Resident:
    """A model in memory. loading: the load that brought it. lost_reason: why it does not answer now; else empty.

    idle: made by who waits for the last request to let go.
    """

    entry: Entry
    loading: Loading
    model: LoadedModel
    slot: Slot
    lost_reason: str = ""
    idle: asyncio.Event | None = None


@dataclass(slots=True, eq=False)
class Entry:
    """is_on_demand: requests load it. known_bytes: what its last load took of memory, 0 before the first.

    failure: what the last load failed with; empty when it did not. told: the readiness that others know of.
    statistics: of a model that was evicted; they go on when it is back. metadata: of the last load.
    """

    spec: ModelSpec
    is_on_demand: bool
    resident: Resident | None = None
    loading: Loading | None = None
    retry: asyncio.Task[None] | None = None
    known_bytes: int = 0
    failure: str = ""
    is_unloaded: bool = False
    is_unloading: bool = False
    told: bool | None = None
    statistics: ModelStatistics | None = None
    metadata: ModelMetadata | None = None
    counts: LoadCounts = field(default_factory=LoadCounts)

    @property
    def may_load_on_demand(self) -> bool:
        """A request may start its load: nobody unloaded it, and its last load did not fail."""
        return self.is_on_demand and not (self.is_unloaded or self.is_unloading or self.failure)

    @property
    def status(self) -> ModelStatus:
        """A model that a request would load is READY: clients that wait for READY would else wait for ever."""
        state, reason = self._state()
        return ModelStatus(self.spec.name, self.spec.version, state, reason)

    @property
    def is_ready(self) -> bool:
        return self._state()[0] is ModelState.READY

    def not_ready(self) -> ModelNotReady:
        """What a request for it is refused with."""
        state, reason = self._state()
        because = f": {reason}" if reason else ""
        return ModelNotReady(f"model '{self.spec.name}' is {state.value.lower()}{because}")

    def _state(self) -> tuple[ModelState, str]:
        if (resident := self.resident) is not None:  # read once: another thread may ask
            if resident.lost_reason:
                return ModelState.UNAVAILABLE, resident.lost_reason
            return ModelState.READY, f"the last load failed: {self.failure}" if self.failure else ""
        if self.may_load_on_demand:
            return ModelState.READY, LOADING_ON_DEMAND if self.loading is not None else ON_DEMAND
        if self.loading is not None:
            return ModelState.LOADING, ""
        if self.is_unloading:
            return ModelState.UNLOADING, ""
        return ModelState.UNAVAILABLE, "unloaded" if self.is_unloaded else self.failure or "not loaded"

"""What the supervisor tells while it works: plain values, for whoever shows them. It does not know who looks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from deploy.local.run_info import RunInfo

_BYTE_STAGES = frozenset({"resolve", "download", "verify", "unpack"})


@dataclass(frozen=True, slots=True)
class Preparing:
    """Something is made before the services start, such as a model that is trained here."""

    what: str


@dataclass(frozen=True, slots=True)
class ServiceStarted:
    """The process of a service was started."""

    service: str
    pid: int


@dataclass(frozen=True, slots=True)
class ServiceServing:
    """The service answers, `seconds` after its process was started, or again after it was silent."""

    service: str
    address: str
    seconds: float
    is_again: bool = False


@dataclass(frozen=True, slots=True)
class ServiceSilent:
    """The process of the service runs, and does not serve."""

    service: str


@dataclass(frozen=True, slots=True)
class ServiceEnded:
    """The process of a service ended without being asked to; it starts again in `restart_in_s` seconds."""

    service: str
    how: str
    restart_in_s: float


@dataclass(frozen=True, slots=True)
class ServiceStopping:
    """The service was asked to end."""

    service: str


@dataclass(frozen=True, slots=True)
class ServiceKilled:
    """The service was asked to end, did not within `seconds`, and was killed."""

    service: str
    seconds: float


@dataclass(frozen=True, slots=True)
class ModelProgress:
    """A model is on its way: how much of which stage is done.

    `done` and `total` are bytes while a file is fetched and checked, and parts of the work after that; `total` is None
    while nobody knows it.
    """

    model: str
    stage: str
    done: int = 0
    total: int | None = None

    @property
    def counts_bytes(self) -> bool:
        return self.stage in _BYTE_STAGES

    @property
    def words(self) -> str:
        """ "download, 12 of 98 MB"."""
        if not self.done:
            return self.stage
        if self.counts_bytes:
            total = f" of {self.total / 1e6:.0f}" if self.total else ""
            return f"{self.stage}, {self.done / 1e6:.0f}{total} MB"
        return f"{self.stage}, {self.done / self.total:.0%}" if self.total else self.stage


@dataclass(frozen=True, slots=True)
class ModelServing:
    """The model answers through the whole mesh."""

    model: str


@dataclass(frozen=True, slots=True)
class ModelFailed:
    """The model cannot be served; the others can."""

    model: str
    reason: str


@dataclass(frozen=True, slots=True)
class StillWaiting:
    """The mesh is not ready after `seconds`; `awaited` says in words what is missing."""

    awaited: tuple[str, ...]
    seconds: float


@dataclass(frozen=True, slots=True)
class Warned:
    """Something is wrong that the mesh can live with."""

    text: str


@dataclass(frozen=True, slots=True)
class MeshReady:
    """Everything that can serve serves, `seconds` after the start."""

    seconds: float
    info: RunInfo


Event = (
    Preparing
    | ServiceStarted
    | ServiceServing
    | ServiceSilent
    | ServiceEnded
    | ServiceStopping
    | ServiceKilled
    | ModelProgress
    | ModelServing
    | ModelFailed
    | StillWaiting
    | Warned
    | MeshReady
)
Report = Callable[[Event], None]

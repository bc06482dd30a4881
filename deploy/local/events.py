"""What the supervisor tells while it works: plain values, for whoever shows them. It does not know who looks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


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
    """The service answers, `seconds` after its process was started."""

    service: str
    address: str
    seconds: float


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
    """A model is on its way: `stage` is "download", "load", …; bytes are None where nobody knows them."""

    model: str
    stage: str
    done_bytes: int | None = None
    total_bytes: int | None = None

    @property
    def words(self) -> str:
        """ "download, 12 of 98 MB"."""
        if not self.done_bytes:
            return self.stage
        total = f" of {self.total_bytes / 1e6:.0f}" if self.total_bytes else ""
        return f"{self.stage}, {self.done_bytes / 1e6:.0f}{total} MB"


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


Event = (
    Preparing
    | ServiceStarted
    | ServiceServing
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

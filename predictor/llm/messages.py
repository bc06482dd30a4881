"""What the two sides of the engine's pipe say to each other. Plain values; both sides are the same installation."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mesh.errors import MeshError
from mesh.logs import LogSettings
from predictor.llm.factory import PRODUCT_MODEL, ModelFacts
from predictor.llm.inspection import Inspection
from predictor.llm.limits import EngineLimits
from predictor.llm.outputs import EngineOutput, EngineStats
from predictor.llm.sequence import Request
from predictor.llm.settings import EngineSettings


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """All that an engine process needs to start; the first message that it gets.

    factory: "module:function" of a `factory.ModelFactory`.
    """

    path: Path
    settings: EngineSettings = field(default_factory=EngineSettings)
    factory: str = PRODUCT_MODEL
    logs: LogSettings = field(default_factory=LogSettings)


@dataclass(frozen=True, slots=True)
class Add:
    """Run a request. arrived_at: seconds on the machine's monotonic clock, which both processes share."""

    request: Request
    arrived_at: float


@dataclass(frozen=True, slots=True)
class Abort:
    request_id: str


@dataclass(frozen=True, slots=True)
class Ping:
    """Answered with a Report, however idle the engine is."""


@dataclass(frozen=True, slots=True)
class Inspect:
    """Answered with an Inspection before the next step."""


@dataclass(frozen=True, slots=True)
class Stop:
    """Exit, whatever still runs."""


Command = Add | Abort | Ping | Inspect | Stop


@dataclass(frozen=True, slots=True)
class Loading:
    """stage: what the engine is busy with; share: how much of it is done, 0 to 1."""

    stage: str
    share: float


@dataclass(frozen=True, slots=True)
class EngineInfo:
    """What a loaded engine is. `limits` holds for every request.

    is_proved_deterministic: it was tried on this machine that, with a seed, a request's tokens do not depend on what
        else the engine does; or the engine computes one token at a time, so that they cannot.
    """

    facts: ModelFacts
    limits: EngineLimits
    num_blocks: int
    block_size: int
    kv_cache_bytes: int
    is_proved_deterministic: bool


@dataclass(frozen=True, slots=True)
class Ready:
    info: EngineInfo


@dataclass(frozen=True, slots=True)
class LoadFailed:
    error: MeshError


@dataclass(frozen=True, slots=True)
class Report:
    """All that one turn of the engine's loop brought."""

    outputs: tuple[EngineOutput, ...]
    stats: EngineStats

    def __reduce__(self) -> tuple[type[Report], tuple[object, ...]]:
        return Report, (self.outputs, self.stats)  # as predictor.llm.outputs.Usage does


Message = Loading | Ready | LoadFailed | Report | Inspection

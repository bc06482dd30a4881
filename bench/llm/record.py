"""What a run writes down, as JSON: machine, versions, settings, and every figure of every round."""

from __future__ import annotations

from bench.llm.contender import Contender
from bench.llm.figures import Figures
from bench.llm.roofline import Limits
from bench.processes import CpuShares
from bench.run_record import BaseRunRecord, Frozen


class ContenderRecord(Frozen):
    """As bench.llm.contender has it, without what can be called."""

    name: str
    quality: str
    protocol: str
    version: str
    note: str
    is_ours: bool
    is_lower_quality: bool

    @classmethod
    def of(cls, contender: Contender) -> ContenderRecord:
        return cls(**{name: getattr(contender, name) for name in cls.model_fields})


class Point(Frozen):
    """One workload, run once against one contender."""

    contender: str
    workload: str
    round: int
    figures: Figures
    cpu: CpuShares


class Start(Frozen):
    """One start of a contender. start_s: to its first token. peak_memory_mb: PSS of its processes, over the round."""

    contender: str
    round: int
    start_s: float
    idle_memory_mb: float
    peak_memory_mb: float


class RunRecord(BaseRunRecord):
    """One run of the benchmark. limits: of the machine, measured while no contender ran."""

    contenders: tuple[ContenderRecord, ...] = ()
    starts: tuple[Start, ...] = ()
    points: tuple[Point, ...] = ()
    limits: Limits | None = None

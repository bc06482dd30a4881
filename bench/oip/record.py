"""What a run writes down, as JSON: machine, versions, and every figure of every round."""

from __future__ import annotations

from bench.oip.contender import Contender
from bench.run_record import BaseRunRecord, Frozen


class ContenderRecord(Frozen):
    """As bench.oip.contender has it, without what can be called."""

    name: str
    version: str
    note: str
    is_ours: bool
    is_limit: bool

    @classmethod
    def of(cls, contender: Contender) -> ContenderRecord:
        return cls(**{name: getattr(contender, name) for name in cls.model_fields})


class Point(Frozen):
    """One workload, run once against one contender.

    cpu_us: microseconds of user and system time a request, by process. peak_mb: most resident memory while it ran, by
    process. others_cpus: CPUs that all but the servers used, the load generator among them. error: why nothing counts.
    """

    contender: str
    workload: str
    round: int
    requests_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    cpu_us: dict[str, float]
    peak_mb: dict[str, float]
    others_cpus: float
    error: str | None = None

    @property
    def total_cpu_us(self) -> float:
        """Of all processes of the contender."""
        return sum(self.cpu_us.values())


class RunRecord(BaseRunRecord):
    """One run of the benchmark."""

    contenders: tuple[ContenderRecord, ...] = ()
    points: tuple[Point, ...] = ()

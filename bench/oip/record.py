"""What a run writes down, as JSON: machine, versions, and every figure of every round."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from bench.machine import Machine
from bench.oip.contender import Contender


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class ContenderRecord(_Frozen):
    """As bench.oip.contender has it, without what can be called."""

    name: str
    version: str
    note: str
    is_ours: bool
    is_limit: bool

    @classmethod
    def of(cls, contender: Contender) -> ContenderRecord:
        return cls(**{name: getattr(contender, name) for name in cls.model_fields})


class Point(_Frozen):
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


class RunRecord(_Frozen):
    """One run of the benchmark. date: UTC, ISO 8601. failures: contenders that did not start, and why."""

    date: str
    commit: str
    machine: Machine
    rounds: int
    share: float = 1.0
    contenders: tuple[ContenderRecord, ...] = ()
    workloads: tuple[str, ...] = ()
    points: tuple[Point, ...] = ()
    failures: tuple[str, ...] = ()

    def write(self, path: Path) -> None:
        """Replace the file at `path`; makes its folder."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=1), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> RunRecord:
        """What `write` wrote. Raises OSError, or ValueError for a file that is none."""
        return cls.model_validate_json(path.read_text(encoding="utf-8"))

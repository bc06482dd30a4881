"""What a run writes down, as JSON: machine, versions, settings, and every figure of every round."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from bench.llm.contender import Contender
from bench.llm.figures import Figures
from bench.llm.roofline import Limits
from bench.machine import Machine
from bench.processes import CpuShares


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class ContenderRecord(_Frozen):
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


class Point(_Frozen):
    """One workload, run once against one contender."""

    contender: str
    workload: str
    round: int
    figures: Figures
    cpu: CpuShares


class Start(_Frozen):
    """One start of a contender. start_s: to its first token. peak_memory_mb: PSS of its processes, over the round."""

    contender: str
    round: int
    start_s: float
    idle_memory_mb: float
    peak_memory_mb: float


class RunRecord(_Frozen):
    """One run of the benchmark.

    date: UTC, ISO 8601. share: of each workload's requests; figures of less than 1 are for a quick look. failures:
    contenders that did not start, and why. limits: of the machine, measured while no contender ran.
    """

    date: str
    commit: str
    machine: Machine
    rounds: int
    share: float = 1.0
    contenders: tuple[ContenderRecord, ...] = ()
    workloads: tuple[str, ...] = ()
    starts: tuple[Start, ...] = ()
    points: tuple[Point, ...] = ()
    failures: tuple[str, ...] = ()
    limits: Limits | None = None

    def write(self, path: Path) -> None:
        """Replace the file at `path`; makes its folder."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=1), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> RunRecord:
        """What `write` wrote. Raises OSError, or ValueError for a file that is none."""
        return cls.model_validate_json(path.read_text(encoding="utf-8"))

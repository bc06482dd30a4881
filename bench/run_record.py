"""What each benchmark writes down of a run, as JSON: when, where, which commit, how much. Knows no figures."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict

from bench.machine import Machine


class Frozen(BaseModel):
    """A part of a record."""

    model_config = ConfigDict(frozen=True)


class BaseRunRecord(Frozen):
    """One run of a benchmark, to which each adds its contenders and points.

    date: UTC, ISO 8601. share: of each workload's requests; figures of less than 1 are for a quick look. failures:
    contenders that did not start, and why.
    """

    date: str
    commit: str
    machine: Machine
    rounds: int
    share: float = 1.0
    workloads: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()

    def write(self, path: Path) -> None:
        """Replace the file at `path`; makes its folder."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=1), encoding="utf-8")

    @classmethod
    def read(cls, path: Path) -> Self:
        """What `write` wrote. Raises OSError, or ValueError for a file that is none."""
        return cls.model_validate_json(path.read_text(encoding="utf-8"))

"""What a run of chaos brought, as JSON, and whether it passed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.chaos.faults import Fault
from bench.chaos.load import Outcome
from bench.machine import Machine
from bench.run_record import Frozen


class NumMembers(NamedTuple):
    """How many of each service that has several."""

    predictors: int
    transformers: int


class ChaosRecord(Frozen):
    """One run. orphans: command lines of processes that outlived the mesh. trouble: replicas that did not come back.

    gateway_bytes: memory of the gateway (PSS), before the load and after it. num_moved: streams that went on at another
    replica, by the counters of the hops; a hop that was killed may have counted some more in its last moment.
    """

    date: str
    commit: str
    machine: Machine
    seed: int
    concurrency: int
    seconds: float
    num_asks: int
    outcomes: tuple[Outcome, ...]
    faults: tuple[Fault, ...]
    num_moved: int
    num_members: NumMembers
    trouble: tuple[str, ...]
    orphans: tuple[str, ...]
    gateway_bytes: tuple[int, int]

    @property
    def failed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.error is not None]

    @property
    def wrong(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes if outcome.difference is not None]

    @property
    def fewest_healthy(self) -> NumMembers:
        """How many of each service were healthy at the worst moment."""
        predictors, transformers = (
            whole - most_at_once([fault for fault in self.faults if fault.member.startswith(service)])
            for service, whole in (
                ("predictor", self.num_members.predictors),
                ("transformer", self.num_members.transformers),
            )
        )
        return NumMembers(predictors, transformers)

    @property
    def has_passed(self) -> bool:
        """Nothing is tolerated, for there was a healthy replica for every request."""
        return (
            bool(self.outcomes)
            and min(self.fewest_healthy) > 0
            and not (self.failed or self.wrong or self.trouble or self.orphans)
        )

    def write(self, path: Path) -> None:
        """Replace the file at `path`; makes its folder."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.model_dump_json(indent=1), encoding="utf-8")


def most_at_once(faults: Sequence[Fault]) -> int:
    """Of how many members at a time there was a fault that was not healed yet."""
    return max(
        (len({other.member for other in faults_during(faults, each.began_s, each.began_s)}) for each in faults),
        default=0,
    )


def faults_during(faults: Sequence[Fault], started_s: float, ended_s: float) -> list[Fault]:
    """Those that were on, or not yet healed, at some moment between the two."""
    return [
        fault for fault in faults if fault.began_s <= ended_s and (fault.ended_s is None or fault.ended_s >= started_s)
    ]

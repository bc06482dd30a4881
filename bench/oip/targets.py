"""What MeshServe shall reach beside bare servers and peers: the project's targets, as ratios within one run."""

from __future__ import annotations

from dataclasses import dataclass

from bench.oip.limits import AIO, PROXY
from bench.oip.meshserve import DIRECT, GATEWAY, PAIR
from bench.oip.record import Point, RunRecord
from bench.spread import Spread, spread_of

KSERVE, MLSERVER, TRITON = "KServe", "MLServer", "Triton, Python backend"


@dataclass(frozen=True, slots=True)
class Target:
    """Ours over the rival's: requests a second, at least `bound`; or CPU of a process of each, at most `bound`."""

    ours: str
    rival: str
    workload: str
    bound: float
    processes: tuple[str, str] | None = None

    @property
    def what(self) -> str:
        if self.processes is None:
            return f"{self.workload}, requests/s, {self.ours} / {self.rival}"
        return f"{self.workload}, CPU of the {self.processes[0]}, {self.ours} / {self.processes[1]}, {self.rival}"

    def ratio(self, record: RunRecord) -> Spread | None:
        """Round by round: what slowed the machine in a round slowed both. None when something is missing."""
        ours, theirs = self._figures(record, self.ours, 0), self._figures(record, self.rival, 1)
        return spread_of(ours[number] / theirs[number] for number in sorted(ours.keys() & theirs.keys()))

    def is_reached(self, ratio: Spread) -> bool:
        """By the median."""
        return ratio.median >= self.bound if self.processes is None else ratio.median <= self.bound

    def _figures(self, record: RunRecord, contender: str, side: int) -> dict[int, float]:
        points = points_of(record, contender, self.workload)
        if self.processes is None:
            return {point.round: point.requests_per_s for point in points}
        return {point.round: point.cpu_us[self.processes[side]] for point in points}


def points_of(record: RunRecord, contender: str, workload: str) -> list[Point]:
    """The points of all rounds; empty when an answer of any round failed."""
    points = [each for each in record.points if each.contender == contender and each.workload == workload]
    return [] if any(point.error is not None for point in points) else points


TARGETS = (
    *(Target(DIRECT, AIO, f"gRPC c={c}", 1.3, ("predictor", "echo")) for c in (1, 8, 32)),
    *(Target(GATEWAY, PROXY, f"gRPC c={c}", 1.25, ("gateway", "proxy")) for c in (1, 8, 32)),
    *(Target(PAIR, KSERVE, f"gRPC c={c}", 2.0) for c in (8, 32)),
    *(Target(PAIR, MLSERVER, f"gRPC c={c}", 4.0) for c in (8, 32)),
    Target(PAIR, TRITON, "gRPC c=32", 0.7),
    Target(PAIR, TRITON, "stream c=32", 1.0),
    *(Target(GATEWAY, KSERVE, f"REST c={c}", 3.0) for c in (8, 32)),
)

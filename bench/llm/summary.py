"""From the points of all rounds to medians, spreads and ratios. Knows no tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bench.llm.figures import Figures
from bench.llm.record import ContenderRecord, Point, RunRecord
from bench.spread import POLLUTED, Spread, spread_of

Metric = Callable[[Figures], float | None]


class Summary:
    """Answers questions about one run."""

    def __init__(self, record: RunRecord) -> None:
        self.record = record

    def of(self, contender: str, workload: str, metric: Metric) -> Spread | None:
        """A figure over the rounds; None when it was not measured, or an answer of any round failed."""
        points = self._points(contender, workload)
        if any(point.figures.errors for point in points):
            return None
        polluted = any(point.cpu.others > POLLUTED for point in points)
        return spread_of((metric(point.figures) for point in points), polluted)

    def ratio(self, ours: str, theirs: str, workload: str, metric: Metric) -> Spread | None:
        """Ours over theirs, round by round: what slowed the machine in a round slowed both."""
        left = {point.round: metric(point.figures) for point in self._points(ours, workload)}
        right = {point.round: metric(point.figures) for point in self._points(theirs, workload)}
        both = [(left[number], right[number]) for number in left.keys() & right.keys()]
        mine, other = self.of(ours, workload, metric), self.of(theirs, workload, metric)
        if mine is None or other is None:
            return None
        ratios = [a / b for a, b in both if a is not None and b]
        return spread_of(ratios, mine.is_polluted or other.is_polluted)

    def best(
        self, contenders: Iterable[ContenderRecord], workload: str, metric: Metric, higher_is_better: bool
    ) -> ContenderRecord | None:
        """Who of `contenders` has the best median; None when nobody has any."""
        medians = {
            each.name: spread.median
            for each in contenders
            if (spread := self.of(each.name, workload, metric)) is not None
        }
        if not medians:
            return None
        name = (max if higher_is_better else min)(medians, key=medians.__getitem__)
        return next(each for each in self.record.contenders if each.name == name)

    def rivals(self, *, with_lower_quality: bool) -> list[ContenderRecord]:
        """The peers; those that pay for speed with quality only if asked for."""
        peers = [each for each in self.record.contenders if not each.is_ours]
        return [each for each in peers if with_lower_quality or not each.is_lower_quality]

    def starts(self, contender: str, metric: str) -> Spread | None:
        """A field of Start over the rounds."""
        return spread_of(getattr(start, metric) for start in self.record.starts if start.contender == contender)

    def others_cpu(self, contender: str, workload: str) -> Spread | None:
        """Share of all CPUs that neither the server nor the load generator used, over the rounds."""
        return spread_of(point.cpu.others for point in self._points(contender, workload))

    def _points(self, contender: str, workload: str) -> list[Point]:
        return [p for p in self.record.points if p.contender == contender and p.workload == workload]

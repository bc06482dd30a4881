"""A Prometheus histogram for what one event loop measures.

prometheus_client's own takes a lock and checks its labels at each observation, which costs a small call as much as the
balancing does; here it is a step in a list. What is shown is the same.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client import CollectorRegistry
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString


class Duration:
    """The seconds seen under one set of labels."""

    __slots__ = ("_bounds", "counts", "sum_s")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self.counts = [0] * (len(bounds) + 1)  # the last one: longer than any bound
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        """Count one. Of one event loop only; it may be read from any thread."""
        self.counts[bisect_left(self._bounds, seconds)] += 1
        self.sum_s += seconds


class Durations(Collector):
    """As `prometheus_client.Histogram`. buckets: upper bounds in seconds, rising."""

    def __init__(
        self,
        name: str,
        documentation: str,
        labelnames: Sequence[str],
        *,
        buckets: Sequence[float],
        registry: CollectorRegistry,
    ) -> None:
        self._name = name
        self._documentation = documentation
        self._labelnames = tuple(labelnames)
        self._bounds = tuple(map(float, buckets))
        self._children: dict[tuple[str, ...], Duration] = {}
        registry.register(self)

    def labels(self, *values: str) -> Duration:
        """What is counted under these labels. To be kept: the look-up costs more than an observation."""
        if len(values) != len(self._labelnames):
            raise ValueError(f"{self._name} has the labels {self._labelnames}, not {len(values)}")
        return self._children.setdefault(values, Duration(self._bounds))

    def describe(self) -> Iterator[HistogramMetricFamily]:
        yield self._family()

    def collect(self) -> Iterator[HistogramMetricFamily]:
        family = self._family()
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        for values, child in list(self._children.items()):
            counts = list(accumulate(child.counts))
            family.add_metric(values, list(zip(bounds, counts, strict=True)), child.sum_s)
        yield family

    def _family(self) -> HistogramMetricFamily:
        return HistogramMetricFamily(self._name, self._documentation, labels=self._labelnames)

"""Counts and durations of one model's inferences since it was loaded: what OIP's ModelStatistics reports."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(slots=True)
class Duration:
    """How often, and nanoseconds in total."""

    count: int = 0
    ns: int = 0

    def add(self, ns: int) -> None:
        self.count += 1
        self.ns += ns


@dataclass(slots=True)
class PhaseDurations:
    """The three phases of an inference: reading inputs, the model itself, writing outputs."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


class ModelStatistics:
    """Counters of one model. `now_ns` is a monotonic clock, `wall_ms` the time of day."""

    def __init__(
        self,
        now_ns: Callable[[], int] = time.monotonic_ns,
        wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.last_inference_ms = 0
        self.inference_count = 0
        self.execution_count = 0
        self.success = Duration()
        self.fail = Duration()
        self.phases = PhaseDurations()
        self.by_batch_size: defaultdict[int, PhaseDurations] = defaultdict(PhaseDurations)
        self._now_ns = now_ns
        self._wall_ms = wall_ms

    @contextmanager
    def request(self) -> Iterator[Stopwatch]:
        """Measure one request; an exception counts as a failure."""
        self.last_inference_ms = self._wall_ms()
        watch = Stopwatch(self._now_ns)
        try:
            yield watch
        except BaseException:
            self.fail.add(watch.total_ns())
            raise
        self._succeeded(watch)

    def _succeeded(self, watch: Stopwatch) -> None:
        self.success.add(watch.total_ns())
        self.inference_count += watch.batch_size
        self.execution_count += 1
        for durations in (self.phases, self.by_batch_size[watch.batch_size]):
            durations.compute_input.add(watch.input_ns)
            durations.compute_infer.add(watch.infer_ns)
            durations.compute_output.add(watch.output_ns)


class Stopwatch:
    """Durations of one request's phases. The request sets `batch_size` once it knows it."""

    def __init__(self, now_ns: Callable[[], int]) -> None:
        self.batch_size = 1
        self.input_ns = 0
        self.infer_ns = 0
        self.output_ns = 0
        self._now_ns = now_ns
        self._started_ns = self._lap_ns = now_ns()

    def inputs_read(self) -> None:
        self.input_ns += self._lap()

    def inferred(self) -> None:
        self.infer_ns += self._lap()

    def outputs_written(self) -> None:
        self.output_ns += self._lap()

    def total_ns(self) -> int:
        return self._now_ns() - self._started_ns

    def _lap(self) -> int:
        now_ns = self._now_ns()
        lap_ns, self._lap_ns = now_ns - self._lap_ns, now_ns
        return lap_ns

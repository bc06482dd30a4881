"""Counts and durations of one model's inferences since it was loaded: what OIP's ModelStatistics reports.

A request is what a client sent; an execution is one run of the model, which may answer several requests at once.
The meaning of each number is that of Triton's statistics extension.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from types import TracebackType

# Answers of one request that are told apart; later ones of a long stream count with the last of these.
MAX_ANSWER_NUMBERS = 64


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
    """The phases of an inference: inputs are read, or joined; the model runs; outputs are written, or split."""

    compute_input: Duration = field(default_factory=Duration)
    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)


@dataclass(slots=True)
class AnswerDurations:
    """Of the answers with one number in their request's stream. cancel: requests that ended while it was awaited."""

    compute_infer: Duration = field(default_factory=Duration)
    compute_output: Duration = field(default_factory=Duration)
    success: Duration = field(default_factory=Duration)
    fail: Duration = field(default_factory=Duration)
    cancel: Duration = field(default_factory=Duration)


class ModelStatistics:
    """Counters of one model. `now_ns` is a monotonic clock, `wall_ms` the time of day.

    `phases` and `queue` count requests that succeeded; `by_batch_size` counts executions, by their rows.
    """

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
        self.cancelled = Duration()
        self.queue = Duration()
        self.phases = PhaseDurations()
        self.by_batch_size: defaultdict[int, PhaseDurations] = defaultdict(PhaseDurations)
        self.by_answer: defaultdict[int, AnswerDurations] = defaultdict(AnswerDurations)
        self.now_ns = now_ns
        self._wall_ms = wall_ms

    def request(self) -> Stopwatch:
        """Measures one request in a `with` block; an exception counts as a failure, a cancel as itself."""
        self.last_inference_ms = self._wall_ms()
        return Stopwatch(self)

    def executed(self, num_rows: int, infer_ns: int, *, join_ns: int = 0, split_ns: int = 0) -> None:
        """The model ran once, without failing, for `num_rows` inferences."""
        self.execution_count += 1
        durations = self.by_batch_size[num_rows]
        durations.compute_input.add(join_ns)
        durations.compute_infer.add(infer_ns)
        durations.compute_output.add(split_ns)

    def answer(self, number: int) -> AnswerDurations:
        """Of the answers with that number, from 0."""
        return self.by_answer[min(number, MAX_ANSWER_NUMBERS - 1)]


class Stopwatch:
    """Durations of one request's phases. The request sets `batch_size` once it knows it."""

    __slots__ = (
        "_lap_ns",
        "_now_ns",
        "_started_ns",
        "_statistics",
        "batch_size",
        "infer_ns",
        "input_ns",
        "output_ns",
        "queue_ns",
    )

    def __init__(self, statistics: ModelStatistics) -> None:
        self.batch_size = 1
        self.queue_ns = 0
        self.input_ns = 0
        self.infer_ns = 0
        self.output_ns = 0
        self._statistics = statistics
        self._now_ns = statistics.now_ns
        self._started_ns = self._lap_ns = statistics.now_ns()

    def __enter__(self) -> Stopwatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        statistics = self._statistics
        total_ns = self._now_ns() - self._started_ns
        if kind is None:
            statistics.success.add(total_ns)
            statistics.inference_count += self.batch_size
            statistics.queue.add(self.queue_ns)
            phases = statistics.phases
            phases.compute_input.add(self.input_ns)
            phases.compute_infer.add(self.infer_ns)
            phases.compute_output.add(self.output_ns)
        elif issubclass(kind, asyncio.CancelledError | GeneratorExit):
            statistics.cancelled.add(total_ns)
        else:
            statistics.fail.add(total_ns)

    def inputs_read(self) -> None:
        self.input_ns += self.lap_ns()

    def dequeued(self) -> None:
        self.queue_ns += self.lap_ns()

    def inferred(self) -> None:
        self.infer_ns += self.lap_ns()

    def outputs_written(self) -> None:
        self.output_ns += self.lap_ns()

    def lap_ns(self) -> int:
        """Nanoseconds since the last phase ended."""
        now_ns = self._now_ns()
        lap_ns, self._lap_ns = now_ns - self._lap_ns, now_ns
        return lap_ns

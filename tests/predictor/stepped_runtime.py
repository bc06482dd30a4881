"""A runtime whose every run waits until the test lets it go on, and a batcher in front of it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import numpy as np

from mesh import context
from mesh.context import RequestContext
from predictor.batching import Batcher
from predictor.batching_options import BatchingOptions
from predictor.runtimes.base import Arrays, ModelArtifact, ModelMetadata, OnHealth, Progress, TensorSpec
from predictor.signature import Signature
from predictor.statistics import ModelStatistics

BAD = -1.0
METADATA = ModelMetadata(
    platform="test_stepped",
    backend="stepped",
    inputs=(TensorSpec("x", "FP64", (-1, -1)), TensorSpec("bias", "FP64", (-1,), optional=True)),
    outputs=(TensorSpec("y", "FP64", (-1, -1)), TensorSpec("total", "FP64", (-1,))),
    max_batch_size=8,
)


@dataclass(eq=False)
class Execution:
    """One run of the model. Waits for `go`."""

    x: np.ndarray[tuple[int, int], np.dtype[np.float64]]
    go: asyncio.Event = field(default_factory=asyncio.Event)
    is_cancelled: bool = False
    request: RequestContext | None = field(default_factory=context.current)


def answer(inputs: Arrays) -> Arrays:
    """What the model makes of a request alone, row by row. Raises ValueError for a bad row."""
    x = inputs["x"]
    if (x == BAD).any():
        raise ValueError("a bad row")
    bias = inputs.get("bias", np.zeros(len(x)))
    return {"y": 2 * x + bias[:, None], "total": x.sum(axis=1) + bias}


class SteppedRuntime:
    """`y` = 2 x + bias, `total` = row sums + bias. `sums_up`: `total` is one number for all rows, against its spec."""

    metadata = METADATA
    memory_bytes = 0

    def __init__(self, *, sums_up: bool = False, is_free: bool = False) -> None:
        self.executions: list[Execution] = []
        self.is_free = is_free
        self._sums_up = sums_up

    @property
    def waiting(self) -> list[Execution]:
        return [each for each in self.executions if not each.go.is_set() and not each.is_cancelled]

    @property
    def rows(self) -> list[int]:
        """Of each run so far."""
        return [len(each.x) for each in self.executions]

    async def load(self, artifact: ModelArtifact, progress: Progress, on_health: OnHealth) -> None:
        pass

    async def warm(self) -> None:
        pass

    async def infer(self, inputs: Arrays) -> Arrays:
        execution = Execution(inputs["x"])
        self.executions.append(execution)
        try:
            if not self.is_free:
                await execution.go.wait()
        except asyncio.CancelledError:
            execution.is_cancelled = True
            raise
        execution.go.set()
        outputs = answer(inputs)
        return {**outputs, "total": outputs["total"].sum()[None]} if self._sums_up else outputs

    async def unload(self) -> None:
        pass


class Bench:
    """A batcher with its runtime, and requests as tasks."""

    def __init__(self, runtime: SteppedRuntime, now: float = 0.0, **options: int | bool) -> None:
        self.runtime = runtime
        self.now = now
        self.statistics = ModelStatistics()
        self.batcher = Batcher(
            "stepped",
            runtime,
            Signature(runtime.metadata),
            self.statistics,
            BatchingOptions(**options),  # type: ignore[arg-type]
            now=lambda: self.now,
        )

    async def ask(
        self, x: object, bias: object = None, *, deadline: float | None = None, request_id: str = "r"
    ) -> Arrays:
        """One request, as `predictor.inference` makes it."""
        inputs = {"x": np.atleast_2d(np.array(x, dtype=np.float64))}
        if bias is not None:
            inputs["bias"] = np.array(bias, dtype=np.float64)
        with context.bind(RequestContext(request_id, deadline)), self.statistics.request() as watch:
            watch.batch_size = len(inputs["x"])
            return await self.batcher.infer(inputs, watch)

    def start(self, *args: object, **fields: object) -> asyncio.Task[Arrays]:
        return asyncio.create_task(self.ask(*args, **fields))  # type: ignore[arg-type]

    async def settle(self) -> None:
        """Let everything go as far as it can."""
        for _ in range(10):
            await asyncio.sleep(0)

    async def finish(self) -> None:
        """Let the model run until nothing waits for it."""
        self.runtime.is_free = True
        for execution in self.runtime.waiting:
            execution.go.set()
        await self.settle()

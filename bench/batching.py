"""What the way to a model costs in the predictor, without gRPC: decode, check, batch, encode.

    python -m bench.batching [--seconds 1.0]

One request after another, and 32 at a time: with a model that answers at once, and with one that takes a millisecond in
a thread, where requests are joined; each with batching and without. Microseconds of CPU for each request.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time

import numpy as np
import uvloop
from rich.console import Console
from rich.table import Table

from mesh import logs
from mesh.oip import open_inference_pb2 as oip
from mesh.tensors import Tensor, encode_request
from predictor.batching_options import BatchingOptions
from predictor.infer_wire import read_request, write_response
from predictor.inference import Inference
from predictor.loader import LoadedModel, MakeRoom, ModelSpec
from predictor.repository import ModelRepository
from predictor.runtimes.base import Arrays, ModelArtifact, ModelMetadata, OnHealth, Progress, TensorSpec
from predictor.runtimes.compute import ComputePool
from predictor.statistics import ModelStatistics

COLUMNS = 16


class IdentityRuntime:
    """FP32[-1, 16] in and out. busy_s: how long a thread takes for each call; 0 answers on the event loop."""

    metadata = ModelMetadata(
        platform="identity",
        backend="identity",
        inputs=(TensorSpec("x", "FP32", (-1, COLUMNS)),),
        outputs=(TensorSpec("y", "FP32", (-1, COLUMNS)),),
        max_batch_size=64,
    )
    memory_bytes = 0

    def __init__(self, busy_s: float) -> None:
        self._busy_s = busy_s
        self._pool = ComputePool("identity", num_threads=1, max_pending=1024)

    async def load(self, artifact: ModelArtifact, progress: Progress, on_health: OnHealth) -> None:
        """Nothing to load."""

    async def warm(self) -> None:
        """Nothing to warm."""

    async def infer(self, inputs: Arrays) -> Arrays:
        if self._busy_s:
            await self._pool.run(lambda: time.sleep(self._busy_s))
        return {"y": inputs["x"]}

    async def unload(self) -> None:
        self._pool.close()


class OneModelLoader:
    """Loads an IdentityRuntime."""

    def __init__(self, busy_s: float, batching: bool) -> None:
        self._busy_s = busy_s
        self._batching = batching

    async def load(self, spec: ModelSpec, on_health: OnHealth, make_room: MakeRoom) -> LoadedModel:
        await make_room(0)
        options = BatchingOptions(batching=self._batching)
        return LoadedModel(spec, "", IdentityRuntime(self._busy_s), ModelStatistics(), options)


def encoded_request() -> bytes:
    request = oip.ModelInferRequest(model_name="identity", id="1")
    encode_request(request, [Tensor("x", "FP32", np.zeros((1, COLUMNS), np.float32))])
    return request.SerializeToString()


async def measure(busy_s: float, batching: bool, concurrency: int, seconds: float) -> tuple[float, float, float]:
    """Requests per second, CPU microseconds per request, and rows per execution."""
    spec = ModelSpec("identity", "identity", "file:///nowhere")

    async def on_change(*_: object) -> None:
        """Nobody wants to know."""

    repository = ModelRepository([spec], OneModelLoader(busy_s, batching), on_change)
    await repository.load_all()
    inference = Inference(repository)
    encoding = encoded_request()
    num_requests = 0
    stop_at = time.perf_counter() + seconds

    async def client() -> None:
        nonlocal num_requests
        while time.perf_counter() < stop_at:
            for _ in range(16):
                write_response(await inference.infer(read_request(encoding)))
            num_requests += 16

    started, cpu_started = time.perf_counter(), time.process_time()
    await asyncio.gather(*(client() for _ in range(concurrency)))
    took_s, cpu_s = time.perf_counter() - started, time.process_time() - cpu_started
    statistics = repository.loaded()[0].statistics
    await repository.close()
    rows = statistics.inference_count / statistics.execution_count
    return num_requests / took_s, 1e6 * cpu_s / num_requests, rows


def main() -> int:
    logs.configure("bench", "warning")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each line")
    options = parser.parse_args()
    table = Table(title="FP32[1,16] identity, in process")
    for name in ("model", "batching", "at a time", "requests/s", "CPU µs", "rows/run"):
        table.add_column(name, justify="right")
    for busy_s, concurrency in ((0.0, 1), (0.0, 32), (0.001, 1), (0.001, 32)):
        for batching in (True, False):
            rate, cpu_us, rows = uvloop.run(measure(busy_s, batching, concurrency, options.seconds))
            model = f"{1000 * busy_s:g} ms" if busy_s else "at once"
            table.add_row(
                model, "on" if batching else "off", str(concurrency), f"{rate:,.0f}", f"{cpu_us:.1f}", f"{rows:.1f}"
            )
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())

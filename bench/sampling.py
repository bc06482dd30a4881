"""What choosing a token costs: the native sampler against PyTorch's, in one process, turn by turn (A B A B).

    python -m bench.sampling [--model FILE] [--rows N] [--rounds N] [--num-threads N]

On real logits: a model reads a text, and its last rows are sampled. PyTorch computes on one thread. Prints
microseconds a row, the median of the rounds and their range, and the ratio of the medians. First it checks that both
choose the same tokens.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from bench.engine_steps import BLOCK_SIZE, smollm2
from predictor.llm import sampler
from predictor.llm.factory import num_usable_cpus
from predictor.llm.native.compiler import build
from predictor.llm.native.library import FloatArray, NativeLibrary
from predictor.llm.native.loader import load_native
from predictor.llm.native.sampler import NativeSampler
from predictor.llm.step import Chunk, Draw, SamplingParams, StepPlan

CACHE_DIR = Path("~/.cache/meshserve")
TEXT = Path(__file__).parent / "pride_and_prejudice.txt"
OUTPUT = tuple(range(100, 400))

CASES = {
    "greedy": Draw(SamplingParams(temperature=0)),
    "temperature 1": Draw(SamplingParams()),
    "temperature 0.3": Draw(SamplingParams(temperature=0.3)),
    "top-k 50": Draw(SamplingParams(top_k=50)),
    "top-p 0.95": Draw(SamplingParams(top_p=0.95)),
    "temperature 2, top-p 0.95": Draw(SamplingParams(temperature=2, top_p=0.95)),
    "top-k 50, top-p 0.95": Draw(SamplingParams(top_k=50, top_p=0.95)),
    "min-p 0.05": Draw(SamplingParams(min_p=0.05)),
    "greedy, all penalties": Draw(SamplingParams(0, repetition_penalty=1.1, presence_penalty=0.5), OUTPUT, OUTPUT),
    "greedy, a guide": Draw(SamplingParams(temperature=0), allowed=b"\x55" * 6144),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", type=Path, help="a GGUF file or a model folder; SmolLM2-135M when left out")
    parser.add_argument("--rows", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--num-threads", type=int, default=0)
    args = parser.parse_args()
    library = NativeLibrary(build(CACHE_DIR))
    logits = real_logits(library, args.model or smollm2(), args.rows)
    torch.set_num_threads(1)
    team = library.new_team(args.num_threads or num_usable_cpus())
    native, tensor, positions = NativeSampler(library, team), torch.from_numpy(logits), range(args.rows)
    print(f"{args.rows} rows of {logits.shape[1]}")
    print("| | native, µs a row | torch | ratio |\n|---|---|---|---|")
    for name, draw in CASES.items():
        draws = [replace(draw, params=replace(draw.params, seed=seed)) for seed in range(args.rows)]
        chosen, expected = native.sample(logits, draws, positions), sampler.sample(tensor, draws, positions)
        assert chosen == expected, f"{name}: {chosen} {expected}"
        ours = partial(native.sample, logits, draws, positions)
        theirs = partial(sampler.sample, tensor, draws, positions)
        print(row(name, ours, theirs, args.rows, args.rounds), flush=True)
    for num_top in (0, 5):
        wanted = range(args.rows), [num_top] * args.rows
        ours = partial(native.logprobs, logits, *wanted)
        theirs = partial(sampler.logprobs, tensor, *wanted)
        print(row(f"log-probability, and {num_top} likeliest", ours, theirs, args.rows, args.rounds), flush=True)
    library.free_team(team)


def real_logits(library: NativeLibrary, path: Path, num_rows: int) -> FloatArray:
    """float32 [num_rows, vocab_size]: after each of the last tokens of a text."""
    model = load_native(path, library, num_threads=num_usable_cpus(), progress=lambda done, total: None)
    prompt = tuple(model.tokenizer.encode(TEXT.read_text()[:4000]))[: 64 + num_rows]
    num_blocks = -(-len(prompt) // BLOCK_SIZE)
    model.backend.allocate(num_blocks, BLOCK_SIZE)
    targets = (-1,) * (len(prompt) - num_rows) + prompt[-num_rows:]
    model.backend.execute(StepPlan(0, (Chunk(0, prompt, 0, tuple(range(num_blocks)), score_targets=targets),)))
    return model.backend.logits(range(len(prompt) - num_rows, len(prompt)))


def row(name: str, ours: Callable[[], object], theirs: Callable[[], object], num_rows: int, rounds: int) -> str:
    times: list[list[float]] = [[], []]
    for i in range(rounds + 1):
        for call, seconds in zip((ours, theirs), times, strict=True):
            start = time.perf_counter()
            call()
            if i:  # the first round warms caches
                seconds.append((time.perf_counter() - start) / num_rows * 1e6)
    cells = [f"{statistics.median(t):.0f} ({min(t):.0f}–{max(t):.0f})" for t in times]
    return f"| {name} | {' | '.join(cells)} | {statistics.median(times[1]) / statistics.median(times[0]):.1f} |"


if __name__ == "__main__":
    main()

"""Runs the prompts of a file offline and prints every step: which tokens of whom, in which blocks, with what outcome.

    python -m predictor.llm.trace --model FILE.gguf prompts.txt

One prompt per line. It is the engine that serves, without process and pipe; a recorder between it and its backend
writes down what passes.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TextIO

from mesh.errors import MeshError
from predictor.llm.backend import Backend
from predictor.llm.engine import Engine
from predictor.llm.factory import EngineModel, load_engine_model
from predictor.llm.messages import EngineSpec
from predictor.llm.output_processor import Vocabulary
from predictor.llm.outputs import GenerationOutput
from predictor.llm.sequence import GenerationRequest
from predictor.llm.settings import EngineSettings
from predictor.llm.step import Chunk, ChunkResult, SamplingParams, StepPlan
from predictor.llm.tokenizer_file import read_tokenizer
from predictor.llm.worker import build_engine


class Recorder:
    """A backend that passes every call on to another and writes the steps down."""

    def __init__(self, backend: Backend, vocabulary: Vocabulary, out: TextIO) -> None:
        self._backend = backend
        self._vocabulary = vocabulary
        self._out = out

    def block_bytes(self, block_size: int) -> int:
        return self._backend.block_bytes(block_size)

    def allocate(self, num_blocks: int, block_size: int) -> None:
        self._backend.allocate(num_blocks, block_size)

    def warm_up(self) -> None:
        self._backend.warm_up()

    def execute(self, plan: StepPlan) -> list[ChunkResult]:
        results = self._backend.execute(plan)
        self._out.write(f"step {plan.step_id}: {_counted(plan.num_tokens, 'token')}\n")
        for chunk, result in zip(plan.chunks, results, strict=True):
            self._out.write(f"  {self._line(chunk, result)}\n")
        return results

    def close(self) -> None:
        self._backend.close()

    def _line(self, chunk: Chunk, result: ChunkResult) -> str:
        positions = f"{chunk.start_position}..{chunk.context_len - 1}"
        line = f"#{chunk.sequence_id:<3} positions {positions:<11} blocks {describe_blocks(chunk.block_table)}"
        if result.token_id is None:
            return line
        text = self._vocabulary.id_to_bytes(result.token_id).decode("utf-8", errors="replace")
        return f"{line}  ->  {result.token_id} {text!r}"


def describe_blocks(block_table: Sequence[int]) -> str:
    """A block table with runs of ids joined: "0-3 7"."""
    runs: list[list[int]] = [[block_table[0]]]
    for before, block_id in pairwise(block_table):
        if block_id == before + 1:
            runs[-1].append(block_id)
        else:
            runs.append([block_id])
    return " ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in runs)


def trace(model: EngineModel, spec: EngineSpec, requests: Sequence[GenerationRequest], out: TextIO) -> None:
    """Run all requests together to their end. Raises what the engine raises for a request that it refuses."""
    recorder = Recorder(model.backend, model.vocabulary, out)
    engine, info = build_engine(replace(model, backend=recorder), spec)
    recorder.warm_up()
    out.write(f"{info.num_blocks} blocks of {info.block_size} tokens\n")
    texts = {request.request_id: "" for request in requests}
    for request in requests:
        engine.add(request)
    while engine.has_work:
        for output in engine.step():
            if isinstance(output, GenerationOutput):
                texts[output.request_id] += output.text
                _write_end(output, texts[output.request_id], out)
        _write_state(engine, out)


def _write_end(output: GenerationOutput, text: str, out: TextIO) -> None:
    if output.finish_reason is None or output.timings is None:
        return
    usage, timings = output.usage, output.timings
    out.write(
        f"  #{output.request_id} ends ({output.finish_reason.value}): {usage.num_prompt_tokens} prompt tokens, "
        f"{usage.num_cached_tokens} of them cached, {_counted(usage.num_output_tokens, 'output token')}, "
        f"first after {timings.first_token_s:.3f} s, last after {timings.total_s:.3f} s\n  {text!r}\n"
    )


def _write_state(engine: Engine, out: TextIO) -> None:
    stats = engine.stats()
    out.write(
        f"  {stats.last_step_s * 1000:.1f} ms; {stats.num_running} running, {stats.num_waiting} waiting, "
        f"{stats.num_free_blocks} blocks free\n"
    )


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def main(argv: Sequence[str], out: TextIO = sys.stdout) -> int:
    """Parse the command line and trace; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m predictor.llm.trace", description="Print every step of an engine.")
    parser.add_argument("prompts", type=Path, help="text file with one prompt per line")
    parser.add_argument("--model", type=Path, required=True, help="GGUF file")
    parser.add_argument("--max-tokens", type=int, default=16, help="longest output (default 16)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16")
    parser.add_argument("--max-num-batched-tokens", type=int, default=512, help="tokens in one step (default 512)")
    args = parser.parse_args(argv)
    try:
        settings = EngineSettings(
            dtype=args.dtype, kv_cache_bytes=2**28, max_num_batched_tokens=args.max_num_batched_tokens
        )
        _trace_file(args, EngineSpec(args.model, settings), out)
    except (MeshError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _trace_file(args: argparse.Namespace, spec: EngineSpec, out: TextIO) -> None:
    prompts = [line for line in args.prompts.read_text(encoding="utf-8").splitlines() if line]
    tokenizer = read_tokenizer(spec.path)
    sampling = SamplingParams(temperature=args.temperature, seed=args.seed)
    requests = [
        GenerationRequest(str(index), tuple(tokenizer.encode(prompt, add_special=True)), sampling, args.max_tokens)
        for index, prompt in enumerate(prompts)
    ]
    trace(load_engine_model(spec.path, spec.settings, lambda stage, share: None), spec, requests, out)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

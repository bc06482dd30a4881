"""Runs the prompts of a file offline and prints every step: which tokens of whom, in which blocks, with what outcome.

    python -m predictor.llm.trace --model MODEL prompts.txt [--record steps.jsonl]
    python -m predictor.llm.trace --model MODEL --replay steps.jsonl

One prompt per line. It is the engine that serves, without process and pipe; a recorder between it and its backend
keeps what passes. A recording can be run again, step by step, and its results compared to the bit.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TextIO

from mesh.errors import InvalidInput, MeshError
from predictor.llm.backend import Backend
from predictor.llm.factory import EngineModel, load_engine_model
from predictor.llm.inspection import Inspection
from predictor.llm.messages import EngineInfo, EngineSpec
from predictor.llm.outputs import EngineOutput, FailedOutput, GenerationOutput
from predictor.llm.replay import replay
from predictor.llm.sequence import GenerationRequest
from predictor.llm.settings import EngineSettings
from predictor.llm.step import ChunkResult, SamplingParams, StepPlan
from predictor.llm.step_json import RecordedStep, RecordingHead, write_head, write_step
from predictor.llm.step_text import StepText, counted
from predictor.llm.tokenizer_file import read_tokenizer
from predictor.llm.worker import build_engine


class Recorder:
    """A backend that passes every call on to another and keeps the last step."""

    def __init__(self, backend: Backend) -> None:
        self.last_step: RecordedStep | None = None
        self._backend = backend

    def block_bytes(self, block_size: int) -> int:
        return self._backend.block_bytes(block_size)

    def allocate(self, num_blocks: int, block_size: int) -> None:
        self._backend.allocate(num_blocks, block_size)

    def warm_up(self) -> None:
        self._backend.warm_up()

    def execute(self, plan: StepPlan) -> list[ChunkResult]:
        results = self._backend.execute(plan)
        self.last_step = RecordedStep(plan, tuple(results))
        return results

    def close(self) -> None:
        self._backend.close()


def trace(
    model: EngineModel,
    spec: EngineSpec,
    requests: Sequence[GenerationRequest],
    out: TextIO,
    recording: TextIO | None = None,
) -> None:
    """Run all requests together to their end. Raises what the engine raises for a request that it refuses."""
    recorder = Recorder(model.backend)
    recorder.warm_up()
    engine, info = build_engine(replace(model, backend=recorder), spec)
    if recording is not None:
        write_head(_head(info), recording)
    out.write(
        f"{counted(info.num_blocks, 'block')} of {info.block_size} tokens; a step computes at most "
        f"{counted(spec.settings.max_num_batched_tokens, 'token')} of {spec.settings.max_num_seqs} outputs\n"
    )
    report = _Report(model, out)
    for request in requests:
        complete = engine.add(request)
        report.added(request, engine.inspect())
        report.outputs([] if complete is None else [complete])
    while engine.has_work:
        outputs = engine.step()
        step = recorder.last_step
        assert step is not None
        report.step(step, engine.inspect())
        report.outputs(outputs)
        if recording is not None:
            write_step(step, recording)


class _Report:
    """Writes down what happens, in the words of `StepText`. An output is called by its request, and its index if
    there are several."""

    def __init__(self, model: EngineModel, out: TextIO) -> None:
        self._vocabulary = model.vocabulary
        self._out = out
        self._names: dict[int, str] = {}
        self._num_outputs: dict[str, int] = {}
        self._texts: dict[str, str] = {}
        self._steps = StepText(self._names, self._token_text)

    def added(self, request: GenerationRequest, look: Inspection) -> None:
        self._num_outputs[request.request_id] = request.n
        for sequence in look.waiting:
            if sequence.request_id == request.request_id:
                self._names[sequence.sequence_id] = self._name(request.request_id, sequence.index)
        self._steps.start(look)
        prompt = "".join(map(self._token_text, request.prompt_token_ids))
        several = "" if request.n == 1 else f", {request.n} outputs"
        self._out.write(
            f"#{request.request_id}: {counted(len(request.prompt_token_ids), 'token')}{several}  {_short(prompt)}\n"
        )

    def step(self, step: RecordedStep, after: Inspection) -> None:
        self._out.writelines(f"{line}\n" for line in self._steps.lines(step.plan, step.results, after))

    def outputs(self, outputs: Sequence[EngineOutput]) -> None:
        for output in outputs:
            if isinstance(output, FailedOutput):
                self._out.write(f"  #{output.request_id} fails: {output.error.message}\n")
            elif isinstance(output, GenerationOutput):
                name = self._name(output.request_id, output.index)
                self._texts[name] = self._texts.get(name, "") + output.text
                self._end(name, output)

    def _end(self, name: str, output: GenerationOutput) -> None:
        if output.finish_reason is None or output.timings is None:
            return
        usage, timings = output.usage, output.timings
        preempted = f", pushed back {counted(usage.num_preemptions, 'time')}" if usage.num_preemptions else ""
        self._out.write(
            f"  {name} ends ({output.finish_reason.value}): {counted(usage.num_prompt_tokens, 'prompt token')}, "
            f"{usage.num_cached_tokens} of them cached, {counted(usage.num_output_tokens, 'output token')}{preempted}, "
            f"first after {timings.first_token_s:.3f} s, last after {timings.total_s:.3f} s\n"
            f"    {self._texts[name]!r}\n"
        )

    def _name(self, request_id: str, index: int) -> str:
        return f"#{request_id}" if self._num_outputs[request_id] == 1 else f"#{request_id}.{index}"

    def _token_text(self, token_id: int) -> str:
        return self._vocabulary.id_to_bytes(token_id).decode("utf-8", errors="replace")


def _short(text: str) -> str:
    return repr(text) if len(text) <= 60 else f"{text[:60]!r}…"


def _head(info: EngineInfo) -> RecordingHead:
    facts = info.facts
    return RecordingHead(facts.architecture, facts.dtype, facts.vocab_size, info.num_blocks, info.block_size)


def main(argv: Sequence[str], out: TextIO = sys.stdout) -> int:
    """Parse the command line, and trace or replay; returns the exit status, 1 also for a replay that differs."""
    args = _parser().parse_args(argv)
    try:
        if args.replay is not None:
            return 0 if _replay_file(args, out) else 1
        if args.prompts is None:
            raise InvalidInput("name a file with prompts, or a recording with --replay")
        _trace_file(args, out)
    except (MeshError, OSError, UnicodeDecodeError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m predictor.llm.trace", description="Print every step of an engine.")
    parser.add_argument("prompts", type=Path, nargs="?", help="text file with one prompt per line")
    parser.add_argument("--model", type=Path, required=True, help="GGUF file, or folder with safetensors")
    parser.add_argument("--record", type=Path, metavar="FILE", help="write every plan and its results as JSON lines")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run recorded steps; exit 1 when results differ")
    parser.add_argument("--max-tokens", type=int, default=16, help="longest output (default 16)")
    parser.add_argument("--min-tokens", type=int, default=0, help="length before which no output ends")
    parser.add_argument("--n", type=int, default=1, help="outputs of each prompt")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", default="auto", help="auto, float32 or bfloat16")
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:<index>")
    parser.add_argument("--max-num-batched-tokens", type=int, default=512, help="tokens in one step (default 512)")
    parser.add_argument("--max-num-seqs", type=int, default=32, help="outputs that run at the same time (default 32)")
    parser.add_argument("--block-size", type=int, default=16, help="tokens in one block (default 16)")
    parser.add_argument("--num-blocks", type=int, default=0, help="blocks in the pool; few of them make outputs wait")
    return parser


def _trace_file(args: argparse.Namespace, out: TextIO) -> None:
    prompts = [line for line in args.prompts.read_text(encoding="utf-8").splitlines() if line]
    tokenizer = read_tokenizer(args.model)
    sampling = SamplingParams(temperature=args.temperature, seed=args.seed)
    requests = [
        GenerationRequest(
            str(index),
            tuple(tokenizer.encode(prompt, add_special=True)),
            sampling,
            args.max_tokens,
            min_tokens=args.min_tokens,
            n=args.n,
        )
        for index, prompt in enumerate(prompts)
    ]
    settings = _settings(args)
    model = _load(args, settings)
    if args.num_blocks:
        settings = replace(settings, kv_cache_bytes=args.num_blocks * model.backend.block_bytes(settings.block_size))
    with ExitStack() as stack:
        recording = None if args.record is None else stack.enter_context(args.record.open("w", encoding="utf-8"))
        trace(model, EngineSpec(args.model, settings), requests, out, recording)


def _replay_file(args: argparse.Namespace, out: TextIO) -> bool:
    with args.replay.open(encoding="utf-8") as recording:
        return replay(_load(args, _settings(args)), recording, out)


def _settings(args: argparse.Namespace) -> EngineSettings:
    return EngineSettings(
        dtype=args.dtype,
        device=args.device,
        kv_cache_bytes=2**28,
        block_size=args.block_size,
        max_num_seqs=args.max_num_seqs,
        max_num_batched_tokens=max(args.max_num_batched_tokens, 0),
    )


def _load(args: argparse.Namespace, settings: EngineSettings) -> EngineModel:
    return load_engine_model(args.model, settings, lambda stage, share: None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""What drafts bring: the engine with and without speculation, in one process, turn by turn (A B A B).

    python -m bench.speculation [--model FILE] [--rounds N] [--work NAME ...] [--batch N ...]

No server: requests go into an engine, which runs until all are answered; prefill counts. Work that repeats its prompt
is measured, and ordinary chat, which does not. Outputs must be equal to the bit; the program ends when they are not.

Prints tokens per second without and with drafts (median of the rounds), the ratio of the two in each round (median,
least, greatest), the same of the process's CPU time, which a busy machine blurs less, the share of drafted tokens that
was accepted, and how many were accepted for each step that had a draft.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.engine_steps import smollm2
from predictor.llm.factory import EngineModel, load_engine_model
from predictor.llm.messages import EngineSpec
from predictor.llm.outputs import EngineStats, GenerationOutput
from predictor.llm.sequence import GenerationRequest
from predictor.llm.settings import EngineSettings
from predictor.llm.step import SamplingParams
from predictor.llm.tokenizer_file import read_tokenizer
from predictor.llm.worker import build_engine

SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"
GREEDY = SamplingParams(temperature=0.0)
SEEDED = SamplingParams(temperature=0.7, top_p=0.95, seed=1)

HOT = SamplingParams(temperature=1.0, seed=1)

ARTICLE = """The lighthouse at Cape Marrow was built in 1874 from grey granite. Its first keeper, Thomas Hale, lived
there with his wife and four children for thirty-one years. Every evening he climbed the two hundred and six steps with
a can of oil. In the winter of 1889 the barque Ellen Grey struck the reef in a snowstorm. Hale rowed out alone three
times and brought nineteen people to the shore. The lamp was made electric in 1932, and since 1987 nobody has lived
in the tower. Today the old house is a museum. It shows Hale's boat, his logbook, and the bell of the Ellen Grey."""

CODE = """class Account:
    def __init__(self, owner, balance=0):
        self.owner = owner
        self.balance = balance
        self.history = []

    def deposit(self, amount):
        if amount <= 0:
            raise ValueError("amount must be positive")
        self.balance += amount
        self.history.append(("deposit", amount))

    def withdraw(self, amount):
        if amount <= 0:
            raise ValueError("amount must be positive")
        if amount > self.balance:
            raise ValueError("not enough money")
        self.balance -= amount
        self.history.append(("withdraw", amount))
"""

RECORDS = """Anna Weber, 34, Hamburg, engineer; Luis Ortega, 51, Sevilla, teacher; Mei Tanaka, 28, Osaka, nurse;
Paul Dubois, 45, Lyon, baker; Ingrid Dahl, 39, Bergen, pilot; Omar Haddad, 62, Tunis, lawyer"""


@dataclass(frozen=True)
class Work:
    name: str
    prompts: tuple[str, ...]
    max_tokens: int
    sampling: SamplingParams = GREEDY


QUESTIONS = (
    "Why is the sky blue?",
    "How do I make a good cup of tea?",
    "Write a short story about a lighthouse keeper who finds a message in a bottle.",
    "What should I see in Lisbon in two days?",
    "Explain to a child how a bicycle stays upright.",
    "Give me some advice for a job interview.",
    "What is the difference between a virus and a bacterium?",
    "Write a poem about autumn.",
)

WORKS = (
    Work("rewrite a text", (f"Repeat the following text, and correct its spelling.\n\n{ARTICLE}",), 160),
    Work("summarise a text", (f"Summarise the following text in a few sentences.\n\n{ARTICLE}",), 96),
    Work("edit code", (f"Rename `amount` to `value` in this code and show all of it.\n\n```python\n{CODE}```",), 192),
    Work(
        "text to JSON",
        (f"Write these people as a JSON list of objects with name, age, city and job.\n\n{RECORDS}",),
        192,
    ),
    Work(
        "edit code, seeded", (f"Add a docstring to each method, show all code.\n\n```python\n{CODE}```",), 192, SEEDED
    ),
    Work("chat, greedy", QUESTIONS, 128),
    Work("chat, seeded", QUESTIONS, 128, SEEDED),
    Work("chat, seeded, hot", QUESTIONS, 128, HOT),
)


@dataclass(frozen=True)
class Turn:
    seconds: float
    cpu_seconds: float
    outputs: dict[str, tuple[int, ...]]
    stats: EngineStats

    @property
    def num_tokens(self) -> int:
        return sum(map(len, self.outputs.values()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", type=Path, help="a GGUF file or a model folder; SmolLM2-135M when left out")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--work", nargs="*", help="names, or their beginnings; all when left out")
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 4], help="requests at the same time")
    args = parser.parse_args()
    path = args.model or smollm2()
    settings = EngineSettings(kv_cache_bytes=2**28, enable_prefix_caching=False)
    model = load_engine_model(path, settings, lambda stage, share: None)
    model.backend.warm_up()
    print("| work | batch | off, tokens/s | on | on/off | CPU time off/on | accepted | a draft |")
    print("|---|---|---|---|---|---|---|---|")
    for work in WORKS:
        if args.work and not any(work.name.startswith(name) for name in args.work):
            continue
        for batch in args.batch:
            print(row(work, batch, model, EngineSpec(path, settings), args.rounds), flush=True)


def row(work: Work, batch: int, model: EngineModel, spec: EngineSpec, rounds: int) -> str:
    encode = read_tokenizer(spec.path).encode
    prompts = [tuple(encode(chat(prompt), add_special=True)) for prompt in work.prompts]
    pairs = []
    for _ in range(rounds):
        off, on = (measure(work, prompts, batch, model, spec, speculation) for speculation in ("off", "auto"))
        if off.outputs != on.outputs:
            sys.exit(f"{work.name}: outputs are not the same with drafts")
        pairs.append((off, on))
    rates = [statistics.median(turn.num_tokens / turn.seconds for turn in turns) for turns in zip(*pairs, strict=True)]
    stats = pairs[0][1].stats
    share = stats.num_accepted_tokens / max(stats.num_draft_tokens, 1)
    cells = [
        *(work.name, str(batch), f"{rates[0]:.0f}", f"{rates[1]:.0f}"),
        spread([off.seconds / on.seconds for off, on in pairs]),
        spread([off.cpu_seconds / on.cpu_seconds for off, on in pairs]),
        f"{stats.num_accepted_tokens} of {stats.num_draft_tokens} ({share:.0%})",
        f"{stats.num_accepted_tokens / max(stats.num_drafts, 1):.1f}",
    ]
    return f"| {' | '.join(cells)} |"


def chat(question: str) -> str:
    turns = (("system", SYSTEM), ("user", question))
    return "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in turns) + "<|im_start|>assistant\n"


def measure(
    work: Work, prompts: Sequence[tuple[int, ...]], batch: int, model: EngineModel, spec: EngineSpec, speculation: str
) -> Turn:
    """Each prompt once, one by one; or, `batch` at a time, so many requests that the last ones weigh little."""
    settings = replace(spec.settings, speculation=speculation, max_num_seqs=batch)
    engine, _ = build_engine(model, replace(spec, settings=settings))
    for number in range(len(prompts) if batch == 1 else max(4 * batch, len(prompts))):
        sampling = replace(work.sampling, seed=work.sampling.seed + number)
        engine.add(GenerationRequest(f"{number}", prompts[number % len(prompts)], sampling, work.max_tokens))
    outputs: dict[str, tuple[int, ...]] = {}
    start, cpu_start = time.perf_counter(), time.process_time()
    while engine.has_work:
        for output in engine.step():
            assert isinstance(output, GenerationOutput)
            outputs[output.request_id] = outputs.get(output.request_id, ()) + output.token_ids
    return Turn(time.perf_counter() - start, time.process_time() - cpu_start, outputs, engine.stats())


def spread(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"


if __name__ == "__main__":
    main()

"""`python -m bench.llm`: MeshServe and its peers through all workloads, in turn; prints tables, asserts nothing.

One contender runs at a time, and after the last comes the first again (A B C A B C), so that what slows the machine for
a while does not hit one of them alone. What is there so far is written after each turn.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import uvloop
from rich.console import Console

from bench.engine_steps import smollm2
from bench.llm import meshserve
from bench.llm.contender import Contender
from bench.llm.prompts import TEXT, one_token_words
from bench.llm.record import ContenderRecord, Point, RunRecord
from bench.llm.report import WIDTH, show
from bench.llm.roofline import best_of, measure
from bench.llm.rounds import run_turn
from bench.llm.workloads import WORKLOADS, Workload
from bench.machine import commit, this_machine
from bench.peers import HOW_TO_INSTALL, ROOT, llama_cpp, openvino, vllm
from bench.server_process import CannotStart
from predictor.llm.tokenizer_file import read_tokenizer

Named = TypeVar("Named", Contender, Workload)


def main() -> int:
    model = smollm2()
    everybody = [*meshserve.contenders(), *llama_cpp.contenders(model), *openvino.contenders(), *vllm.contenders()]
    options = _options([each.name for each in everybody])
    console = Console(width=WIDTH)
    contenders = chosen(everybody, options.contenders)
    for contender in contenders:
        if not contender.is_installed:
            console.print(f"{contender.name} is not installed and does not take part; `{HOW_TO_INSTALL}` installs it")
    record = RunRecord(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=commit(ROOT),
        machine=this_machine(),
        rounds=options.rounds,
        share=options.share,
        limits=measure(),
    )
    contenders = [contender for contender in contenders if contender.is_installed]
    workloads = chosen(WORKLOADS, options.workloads)
    words = one_token_words(read_tokenizer(model), TEXT.read_text(encoding="utf-8"))
    try:
        record = uvloop.run(run(record, contenders, workloads, words, options.json, console))
    except KeyboardInterrupt:
        console.print(f"stopped; what was measured before is in {options.json}")
        return 130
    # Once more: a disturbed measurement shows less than there is, never more.
    record = record.model_copy(update={"limits": best_of(record.limits, measure())})
    record.write(options.json)
    show(record, console)
    console.print(f"all figures: {options.json}; tables anew: python -m bench.llm.report {options.json} --markdown")
    return 1 if record.failures else 0


async def run(
    record: RunRecord,
    contenders: Sequence[Contender],
    workloads: Sequence[Workload],
    words: Sequence[str],
    path: Path,
    console: Console,
) -> RunRecord:
    """All rounds; gives `record` with what they brought, as it also stands in the file at `path`."""
    say = functools.partial(console.print, markup=False)  # what servers say may look like markup
    known = tuple(ContenderRecord.of(contender) for contender in contenders)
    record = record.model_copy(update={"contenders": known, "workloads": tuple(each.name for each in workloads)})
    for round_number in range(record.rounds):
        for contender in contenders:
            say(f"round {round_number + 1} of {record.rounds}: {contender.name}")
            try:
                start, points = await run_turn(
                    contender, workloads, words, round_number, record.share, lambda point: say(_line(point))
                )
            except CannotStart as error:
                say(f"  {error}")
                record = record.model_copy(update={"failures": (*record.failures, str(error))})
                continue
            record = record.model_copy(update={"starts": (*record.starts, start), "points": (*record.points, *points)})
            record.write(path)
    return record


def chosen(everything: Sequence[Named], names: Sequence[str] | None) -> list[Named]:
    """Those whose names begin with one of `names`, in their own order; all, when no names are given."""
    return [each for each in everything if names is None or any(each.name.startswith(name) for name in names)]


def _line(point: Point) -> str:
    figures, cpu = point.figures, point.cpu
    first = "–" if figures.ttft_p50_ms is None else f"{figures.ttft_p50_ms:,.0f}"
    failed = f", {len(figures.errors)} failed: {figures.errors[0]}" if figures.errors else ""
    return (
        f"  {point.workload:14} {figures.output_tokens_per_s:8.1f} tokens/s, TTFT p50 {first:>6} ms, "
        f"CPU: load generator {cpu.generator:.0%}, others {cpu.others:.0%}{failed}"
    )


def _options(names: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.llm", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contenders", nargs="+", metavar="NAME", help=f"beginnings of: {'; '.join(names)}")
    workloads = "; ".join(workload.name for workload in WORKLOADS)
    parser.add_argument("--workloads", nargs="+", metavar="NAME", help=f"beginnings of: {workloads}")
    parser.add_argument(
        "--share", type=float, default=1.0, help="of each workload's requests; below 1 for a quick look"
    )
    parser.add_argument("--json", type=Path, default=ROOT / ".bench" / "llm.json", help="file for all figures")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

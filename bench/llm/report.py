"""The figures of a run as tables: `python -m bench.llm.report FILE.json [--markdown]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console

from bench.llm import roofline
from bench.llm.figures import Figures
from bench.llm.meshserve import GATEWAY
from bench.llm.record import RunRecord
from bench.llm.summary import Metric, Summary
from bench.llm.targets import MAX_MEMORY_MB, MAX_START_S, TARGETS, tokens_per_s, ttft_p50, ttft_p99
from bench.sheet import NOTHING, Sheet, cell
from bench.spread import POLLUTED

# Columns of the terminal that the tables want.
WIDTH = 200


def heading(record: RunRecord) -> str:
    """What was measured on, in one sentence."""
    machine = record.machine
    quick = "" if record.share >= 1 else f", only {record.share:.0%} of the requests"
    return (
        f"{record.date}, commit {record.commit}, {record.rounds} rounds{quick}; {machine.num_cpus} CPUs of "
        f"{machine.cpu} ({', '.join(machine.cpu_flags)}), {machine.memory_gib:.0f} GiB, Linux {machine.kernel}, "
        f"Python {machine.python}. Median of the rounds (least–greatest). * others had more than {POLLUTED:.0%} of the "
        f"CPUs in a round. {NOTHING} not measured, or an answer failed."
    )


def sheets(record: RunRecord) -> Iterator[Sheet]:
    """All tables."""
    summary = Summary(record)
    yield contenders_sheet(summary)
    yield metric_sheet(summary, "Output tokens/s", tokens_per_s, higher_is_better=True)
    yield metric_sheet(summary, "Time to first token, p50, ms", ttft_p50, higher_is_better=False)
    yield metric_sheet(summary, "Time to first token, p99, ms", ttft_p99, higher_is_better=False)
    yield metric_sheet(summary, "Inter-token latency, p50, ms", lambda f: f.itl_p50_ms, higher_is_better=False)
    yield metric_sheet(summary, "Inter-token latency, p99, ms", lambda f: f.itl_p99_ms, higher_is_better=False)
    yield tokens_sheet(summary)
    yield others_sheet(summary)
    if record.limits is not None:
        yield roofline_sheet(summary, record.limits)
    yield targets_sheet(summary)
    failed = failures_sheet(record)
    if failed.rows:
        yield failed


def contenders_sheet(summary: Summary) -> Sheet:
    """Who took part, how long each took to its first token, and how much memory it had."""
    rows = [
        (
            each.name,
            each.quality + (" (lower)" if each.is_lower_quality else ""),
            each.protocol,
            each.version,
            cell(summary.starts(each.name, "start_s")),
            cell(summary.starts(each.name, "idle_memory_mb")),
            cell(summary.starts(each.name, "peak_memory_mb")),
            each.note,
        )
        for each in summary.record.contenders
    ]
    columns = ("contender", "arithmetic", "protocol", "version", "start, s", "idle, MB", "peak, MB", "how")
    return Sheet("Contenders: start to first token, memory (PSS)", columns, tuple(rows))


def metric_sheet(summary: Summary, title: str, metric: Metric, *, higher_is_better: bool) -> Sheet:
    """One figure of all, and what MeshServe's is over the best peer's."""
    names = [each.name for each in summary.record.contenders]
    rows = []
    for workload in summary.record.workloads:
        cells = [cell(summary.of(name, workload, metric)) for name in names]
        ratios = [
            _ratio_to_best(summary, workload, metric, higher_is_better, with_lower_quality=lower)
            for lower in (False, True)
        ]
        rows.append((workload, *cells, *ratios))
    columns = ("workload", *names, "MeshServe / best of equal quality", "MeshServe / best of all")
    return Sheet(title, columns, tuple(rows))


def _ratio_to_best(
    summary: Summary, workload: str, metric: Metric, higher_is_better: bool, *, with_lower_quality: bool
) -> str:
    rivals = summary.rivals(with_lower_quality=with_lower_quality)
    best = summary.best(rivals, workload, metric, higher_is_better)
    ratio = None if best is None else summary.ratio(GATEWAY, best.name, workload, metric)
    return NOTHING if best is None or ratio is None else f"{cell(ratio, digits=2)} {best.name}"


def tokens_sheet(summary: Summary) -> Sheet:
    """What the servers counted: all must have read and made as much."""
    names = [each.name for each in summary.record.contenders]

    def counted(workload: str, name: str) -> str:
        figures = _all_figures(summary, workload, name)
        known = [each.prompt_tokens for each in figures if each.prompt_tokens is not None]
        parts = [each.tokens_per_part for each in figures if each.tokens_per_part is not None]
        if not known or not parts:
            return NOTHING
        least, greatest = min(low for low, _ in known), max(high for _, high in known)
        return f"{least if least == greatest else f'{least}–{greatest}'}; {sum(parts) / len(parts):.2f}"

    rows = [(workload, *(counted(workload, name) for name in names)) for workload in summary.record.workloads]
    return Sheet("Prompt tokens by the server's count; output tokens per part", ("workload", *names), tuple(rows))


def _all_figures(summary: Summary, workload: str, name: str) -> list[Figures]:
    points = summary.record.points
    return [point.figures for point in points if point.contender == name and point.workload == workload]


def others_sheet(summary: Summary) -> Sheet:
    """How much of the machine was somebody else's."""
    names = [each.name for each in summary.record.contenders]
    rows = [
        (workload, *(cell(summary.others_cpu(name, workload), percent=True) for name in names))
        for workload in summary.record.workloads
    ]
    return Sheet("Others' share of the CPUs", ("workload", *names), tuple(rows))


def roofline_sheet(summary: Summary, limits: roofline.Limits) -> Sheet:
    """What the machine would allow, and how much of it MeshServe reached."""
    rows = []
    for bound in roofline.bounds(limits):
        measured = summary.of(GATEWAY, bound.workload, tokens_per_s)
        share = NOTHING if measured is None else f"{measured.median / bound.tokens_per_s:.0%}"
        rows.append(
            (
                bound.workload,
                f"{bound.prefill_gflop:.1f}",
                f"{bound.prefill_ms:,.1f}",
                f"{bound.step_mb:,.0f}",
                f"{bound.step_gflop:.2f}",
                f"{bound.step_ms:.2f}",
                f"{bound.tokens_per_s:,.0f}",
                cell(measured),
                share,
            )
        )
    title = (
        f"Roofline: weights and KV cache read at {limits.read_gb_per_s:.1f} GB/s, multiplied at "
        f"{limits.int8_tops:.2f} TOP/s (int8; bf16 {limits.bf16_tflops:.2f} TFLOP/s)"
    )
    columns = (
        *("workload", "prefill, GFLOP", "prefill, ms", "decode step, MB", "decode step, GFLOP", "decode step, ms"),
        *("bound, tokens/s", "MeshServe", "share"),
    )
    return Sheet(title, columns, tuple(rows))


def targets_sheet(summary: Summary) -> Sheet:
    """Each target and what was measured."""
    rows = []
    for target in TARGETS:
        ratio = target.ratio(summary)
        bound = f"{'≥' if target.higher_is_better else '≤'} {target.bound:g}"
        reached = NOTHING if ratio is None else _yes_no(target.is_reached(ratio))
        rows.append((f"{target.workload}, {target.what} / {target.rival}", bound, cell(ratio, digits=2), reached))
    for what, field, most in (("start, s", "start_s", MAX_START_S), ("peak, MB", "peak_memory_mb", MAX_MEMORY_MB)):
        spread = summary.starts(GATEWAY, field)
        reached = NOTHING if spread is None else _yes_no(spread.median <= most)
        rows.append((f"MeshServe, {what}", f"≤ {most:g}", cell(spread), reached))
    return Sheet("Targets", ("target", "bound", "measured", "reached"), tuple(rows))


def failures_sheet(record: RunRecord) -> Sheet:
    """What did not work; empty when all did."""
    rows = [("did not start", failure) for failure in record.failures]
    for point in record.points:
        if point.figures.errors:
            asked = f"{point.contender}, {point.workload}, round {point.round + 1}"
            rows.append((asked, f"{len(point.figures.errors)} answers failed, the first: {point.figures.errors[0]}"))
    return Sheet("Failures", ("where", "what"), tuple(rows))


def _yes_no(is_so: bool) -> str:
    return "yes" if is_so else "no"


def show(record: RunRecord, console: Console) -> None:
    """Print all tables on a terminal."""
    console.print(heading(record), markup=False)
    for sheet in sheets(record):
        console.print(sheet.rich())


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.llm.report", description=__doc__)
    parser.add_argument("file", type=Path, help="what `python -m bench.llm` wrote")
    parser.add_argument("--markdown", action="store_true")
    options = parser.parse_args(argv)
    try:
        record = RunRecord.read(options.file)
    except (OSError, ValueError) as error:
        print(f"report: {options.file} cannot be read: {error}", file=sys.stderr)
        return 1
    if options.markdown:
        print("\n\n".join((heading(record), *(sheet.markdown() for sheet in sheets(record)))))
    else:
        show(record, Console(width=WIDTH))
    return 0


if __name__ == "__main__":
    sys.exit(main())

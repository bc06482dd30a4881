"""The figures of a run as tables: `python -m bench.gateway.report FILE.json [--markdown]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from bench.gateway.record import STREAM, UNARY, RunRecord, Slice
from bench.sheet import NOTHING, Sheet, cell
from bench.spread import Spread, spread_of

WIDTH = 160
PROXY, GATEWAY = "bare byte proxy", "gateway"
MAX_CPU_RATIO = 1.25
MAX_PICK_US = 50.0
# Memory after the last requests over that after the first: what an allocator keeps is not a leak.
MAX_GROWTH = 1.05

Figure = Callable[[Slice], float]


@dataclass(frozen=True, slots=True)
class Outcome:
    """A target, what was measured of it, and whether that reaches it; None where nothing was measured."""

    target: str
    bound: str
    measured: str
    is_reached: bool | None


def heading(record: RunRecord) -> str:
    """What was measured on, in one sentence."""
    machine = record.machine
    quick = "" if record.share >= 1 else f", only {record.share:.0%} of the requests"
    return (
        f"{record.date}, commit {record.commit}, {record.rounds} rounds{quick}; {machine.num_cpus} CPUs of "
        f"{machine.cpu}, {machine.memory_gib:.0f} GiB, Linux {machine.kernel}, Python {machine.python}; unary calls by "
        f"{record.client}. Median of the rounds (least–greatest)."
    )


def sheets(record: RunRecord) -> Iterator[Sheet]:
    """All tables."""
    for kind, unit in ((UNARY, "call"), (STREAM, "token")):
        if any(each.kind == kind for each in record.slices):
            yield _cpu(record, kind, unit)
            yield _latency(record, kind, unit)
    if record.memory:
        looks = tuple((f"{each.requests:,}", f"{each.pss_mb:.1f}") for each in record.memory)
        yield Sheet("The gateway's memory", ("requests", "PSS, MB"), looks)
    if record.picks:
        picks = tuple((each.policy, f"{each.median_us:.1f}", f"{each.greatest_us:.1f}") for each in record.picks)
        yield Sheet("pick() among 256 replicas, with a full index", ("policy", "median, µs", "greatest, µs"), picks)
    words = {True: "yes", False: "no", None: NOTHING}
    yield Sheet(
        "Targets",
        ("target", "bound", "measured", "reached"),
        tuple((each.target, each.bound, each.measured, words[each.is_reached]) for each in outcomes(record)),
    )


def _cpu(record: RunRecord, kind: str, unit: str) -> Sheet:
    rows = tuple(
        (
            f"{kind} c={concurrency}",
            cell(_spread(record, PROXY, kind, concurrency, lambda each: each.cpu_us)),
            cell(_spread(record, GATEWAY, kind, concurrency, lambda each: each.cpu_us)),
            cell(cpu_ratio(record, kind, concurrency), 2),
            cell(_spread(record, GATEWAY, kind, concurrency, lambda each: each.units_per_s)),
        )
        for concurrency in _concurrencies(record, kind)
    )
    columns = ("load", f"{PROXY}, µs", f"{GATEWAY}, µs", f"{GATEWAY} / {PROXY}", f"{unit}s/s through the gateway")
    return Sheet(f"CPU of the hop a {unit}", columns, rows)


def _latency(record: RunRecord, kind: str, unit: str) -> Sheet:
    p50: Figure = lambda each: each.p50_ms - each.direct_p50_ms  # noqa: E731 -- two columns of one table
    p99: Figure = lambda each: each.p99_ms - each.direct_p99_ms  # noqa: E731
    rows = tuple(
        (
            f"{kind} c={concurrency}",
            *(
                cell(_spread(record, hop, kind, concurrency, figure), 2)
                for figure in (p50, p99)
                for hop in (PROXY, GATEWAY)
            ),
        )
        for concurrency in _concurrencies(record, kind)
    )
    columns = ("load", *(f"{name}, {hop}" for name in ("p50", "p99") for hop in (PROXY, GATEWAY)))
    return Sheet(f"Latency that the hop adds to a {unit}, ms", columns, rows)


def cpu_ratio(record: RunRecord, kind: str, concurrency: int) -> Spread | None:
    """The gateway's CPU over the proxy's, round by round: what slowed the machine in a round slowed both."""
    ours, bare = (_by_round(record, hop, kind, concurrency) for hop in (GATEWAY, PROXY))
    return spread_of(ours[number].cpu_us / bare[number].cpu_us for number in sorted(ours.keys() & bare.keys()))


def outcomes(record: RunRecord) -> Iterator[Outcome]:
    """All targets, with the medians that decide."""
    for kind, unit in ((UNARY, "call"), (STREAM, "token")):
        for concurrency in _concurrencies(record, kind):
            ratio = cpu_ratio(record, kind, concurrency)
            yield Outcome(
                f"CPU a {unit}, {kind} c={concurrency}, {GATEWAY} / {PROXY}",
                f"≤ {MAX_CPU_RATIO}",
                cell(ratio, 2),
                None if ratio is None else ratio.median <= MAX_CPU_RATIO,
            )
    for pick in record.picks:
        yield Outcome(
            f"pick() of {pick.policy} among 256 replicas",
            f"≤ {MAX_PICK_US:.0f} µs",
            f"{pick.median_us:.1f} µs",
            pick.median_us <= MAX_PICK_US,
        )
    if len(record.memory) > 1:
        first, last = record.memory[0], record.memory[-1]
        growth = last.pss_mb / first.pss_mb
        yield Outcome(
            f"memory after {last.requests:,} requests / after {first.requests:,}",
            f"≤ {MAX_GROWTH}",
            f"{growth:.3f}",
            growth <= MAX_GROWTH,
        )


def _by_round(record: RunRecord, hop: str, kind: str, concurrency: int) -> dict[int, Slice]:
    return {
        each.round: each
        for each in record.slices
        if (each.hop, each.kind, each.concurrency) == (hop, kind, concurrency)
    }


def _spread(record: RunRecord, hop: str, kind: str, concurrency: int, figure: Figure) -> Spread | None:
    return spread_of(figure(each) for each in _by_round(record, hop, kind, concurrency).values())


def _concurrencies(record: RunRecord, kind: str) -> list[int]:
    return sorted({each.concurrency for each in record.slices if each.kind == kind})


def show(record: RunRecord, console: Console) -> None:
    console.print(heading(record), markup=False)
    for sheet in sheets(record):
        console.print(sheet.rich())


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.gateway.report", description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--markdown", action="store_true", help="print Markdown instead of tables for a terminal")
    options = parser.parse_args(argv)
    try:
        record = RunRecord.read(options.file)
    except (OSError, ValueError) as error:
        print(f"{options.file}: {error}", file=sys.stderr)
        return 1
    if options.markdown:
        print("\n\n".join([heading(record), *(sheet.markdown() for sheet in sheets(record))]))
    else:
        show(record, Console(width=WIDTH))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The figures of a run as tables: `python -m bench.oip.report FILE.json [--markdown]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from bench.oip.record import Point, RunRecord
from bench.oip.targets import TARGETS, points_of
from bench.oip.workloads import LARGE
from bench.sheet import NOTHING, Sheet, cell
from bench.spread import spread_of

# Columns of the terminal that the tables want.
WIDTH = 200


def heading(record: RunRecord) -> str:
    """What was measured on, in one sentence."""
    machine = record.machine
    quick = "" if record.share >= 1 else f", only {record.share:.0%} of the requests"
    return (
        f"{record.date}, commit {record.commit}, {record.rounds} rounds{quick}; {machine.num_cpus} CPUs of "
        f"{machine.cpu}, {machine.memory_gib:.0f} GiB, Linux {machine.kernel}, Python {machine.python}. Median of the "
        f"rounds (least–greatest). {NOTHING} not measured, or an answer failed."
    )


def sheets(record: RunRecord) -> Iterator[Sheet]:
    """All tables."""
    rows = tuple((each.name, each.version, each.note) for each in record.contenders)
    yield Sheet("Contenders", ("contender", "version", "how"), rows)
    yield _by_workload(record, "Requests/s", lambda point: point.requests_per_s)
    yield _by_workload(record, "CPU µs a request, all processes of the server", lambda point: point.total_cpu_us)
    yield _by_process(record, "CPU µs a request by process", lambda point: point.cpu_us)
    yield _by_workload(record, "p50, ms", lambda point: point.p50_ms)
    yield _by_workload(record, "p99, ms", lambda point: point.p99_ms)
    if LARGE in record.workloads:
        yield _by_process(record, "Peak resident memory by process, MB", lambda point: point.peak_mb)
    yield _by_workload(record, "CPUs that others used, the client among them", lambda point: point.others_cpus)
    yield targets_sheet(record)
    failed = failures_sheet(record)
    if failed.rows:
        yield failed


def _by_workload(record: RunRecord, title: str, metric: Callable[[Point], float | None]) -> Sheet:
    rows = []
    for contender in record.contenders:
        points = [points_of(record, contender.name, workload) for workload in record.workloads]
        rows.append((contender.name, *(cell(spread_of(map(metric, each))) for each in points)))
    return Sheet(title, ("contender", *record.workloads), tuple(rows))


def _by_process(record: RunRecord, title: str, metric: Callable[[Point], dict[str, float]]) -> Sheet:
    rows = []
    for contender in record.contenders:
        points = [points_of(record, contender.name, workload) for workload in record.workloads]
        names = list(dict.fromkeys(name for each in points for point in each for name in metric(point)))
        for name in names:
            spreads = (spread_of(metric(point)[name] for point in each) for each in points)
            rows.append((f"{contender.name}: {name}", *map(cell, spreads)))
    return Sheet(title, ("process", *record.workloads), tuple(rows))


def targets_sheet(record: RunRecord) -> Sheet:
    """Each target and what was measured."""
    rows = []
    for target in TARGETS:
        ratio = target.ratio(record)
        bound = f"{'≤' if target.processes else '≥'} {target.bound:g}"
        reached = NOTHING if ratio is None else ("yes" if target.is_reached(ratio) else "no")
        rows.append((target.what, bound, cell(ratio, digits=2), reached))
    return Sheet("Targets", ("target", "bound", "measured", "reached"), tuple(rows))


def failures_sheet(record: RunRecord) -> Sheet:
    """What did not work; empty when all did."""
    rows = [("did not start", failure) for failure in record.failures]
    for point in record.points:
        if point.error is not None:
            rows.append((f"{point.contender}, {point.workload}, round {point.round + 1}", point.error))
    return Sheet("Failures", ("where", "what"), tuple(rows))


def show(record: RunRecord, console: Console) -> None:
    """Print all tables on a terminal."""
    console.print(heading(record), markup=False)
    for sheet in sheets(record):
        console.print(sheet.rich())


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.oip.report", description=__doc__)
    parser.add_argument("file", type=Path, help="what `python -m bench.oip` wrote")
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

"""A run's record as tables for people. Knows how to count, not how anything was done."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from bench.chaos.faults import Fault, FaultKind
from bench.chaos.load import Outcome
from bench.chaos.record import ChaosRecord, faults_during

_MAX_SHOWN = 12


def show(record: ChaosRecord, console: Console) -> None:
    """Print everything that a person wants to know of the run."""
    console.print(_by_kind(record.outcomes))
    console.print(_by_fault(record.faults))
    for line in failures_in_words(record):
        console.print(line, markup=False)
    before, after = (size / 2**20 for size in record.gateway_bytes)
    fewest, whole = record.fewest_healthy, record.num_members
    console.print(
        f"{record.num_moved} times a stream went on at another replica; healthy at the worst moment: "
        f"{fewest.predictors} of {whole.predictors} predictors, "
        f"{fewest.transformers} of {whole.transformers} transformers"
    )
    console.print(f"memory of the gateway: {before:.0f} MiB before, {after:.0f} MiB after")
    console.print(
        f"{len(record.outcomes)} requests in {record.seconds:.0f} s, {record.concurrency} at a time, "
        f"seed {record.seed}: "
        f"{len(record.failed)} failed, {len(record.wrong)} wrong; {len(record.faults)} faults: "
        f"{'passed' if record.has_passed else 'FAILED'}"
    )


def failures_in_words(record: ChaosRecord) -> list[str]:
    """A line for each thing that went wrong; the first dozen of each sort."""
    lines: list[str] = []
    for title, outcomes in (("failed", record.failed), ("wrong", record.wrong)):
        lines += [f"{title}: {_line(outcome, record.faults)}" for outcome in outcomes[:_MAX_SHOWN]]
        if len(outcomes) > _MAX_SHOWN:
            lines.append(f"… and {len(outcomes) - _MAX_SHOWN} more that {title}")
    lines += [f"trouble: {line}" for line in record.trouble]
    return lines + [f"left over: {line}" for line in record.orphans]


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that at least `share` of all do not exceed; 0 when there are none."""
    if not values:
        return 0.0
    return sorted(values)[max(0, math.ceil(len(values) * share) - 1)]


def _by_kind(outcomes: Sequence[Outcome]) -> Table:
    kinds: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        kinds[outcome.kind].append(outcome)
    columns = ("request", "number", "failed", "wrong", "total p50, s", "p99", "longest pause p50, s", "p99", "max")
    table = _table("Requests", columns)
    for kind, those in (*sorted(kinds.items()), ("all", list(outcomes))):
        totals = [one.ended_s - one.started_s for one in those]
        # Of what comes as a whole, all of it is one pause.
        pauses = [one.longest_pause_s for one in those if one.num_parts > 1]
        table.add_row(
            kind,
            str(len(those)),
            str(sum(one.error is not None for one in those)),
            str(sum(one.difference is not None for one in those)),
            *(f"{percentile(totals, share):.2f}" for share in (0.5, 0.99)),
            *(f"{percentile(pauses, share):.2f}" if pauses else "" for share in (0.5, 0.99, 1.0)),
        )
    return table


def _by_fault(faults: Sequence[Fault]) -> Table:
    table = _table("Faults", ("fault", "of", "times", "healthy again after p50, s", "max", "ended after max, s"))
    counted = Counter((fault.kind, fault.member.partition("-")[0]) for fault in faults)
    for (kind, service), times in sorted(counted.items(), key=lambda item: (item[0][1], item[0][0].value)):
        those = [each for each in faults if (each.kind, each.member.partition("-")[0]) == (kind, service)]
        took = [each.ended_s - each.began_s for each in those if each.ended_s is not None]
        drains = [each.drain_s for each in those if each.drain_s is not None]
        ended = f"{max(drains):.1f}" if drains and kind is FaultKind.DRAIN else ""
        table.add_row(
            kind.value, service, str(times), f"{percentile(took, 0.5):.1f}", f"{max(took, default=0.0):.1f}", ended
        )
    return table


def _line(outcome: Outcome, faults: Sequence[Fault]) -> str:
    """ "12.3–15.1 s, chat 2: UNAVAILABLE: …, while kill -9 of predictor-1 (11.9 s)"."""
    on = faults_during(faults, outcome.started_s, outcome.ended_s)
    meanwhile = ", ".join(f"{fault.kind.value} of {fault.member} ({fault.began_s:.1f} s)" for fault in on)
    what = outcome.error or outcome.difference
    when = f"{outcome.started_s:.1f}–{outcome.ended_s:.1f} s"
    return f"{when}, {outcome.ask} ({outcome.request_id}): {what}; meanwhile: {meanwhile or 'nothing'}"


def _table(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left")
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place == 0 else "right")
    return table

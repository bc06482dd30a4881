"""`python -m bench.oip`: a tensor request through MeshServe, its peers and bare servers, in turn; asserts nothing.

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

import uvloop
from rich.console import Console

from bench.machine import commit, this_machine
from bench.oip import h2load, limits, meshserve
from bench.oip.contender import Contender
from bench.oip.record import ContenderRecord, Point, RunRecord
from bench.oip.report import WIDTH, show
from bench.oip.rounds import run_turn
from bench.oip.workloads import WORKLOADS, Workload
from bench.peers import HOW_TO_INSTALL, ROOT, kserve, mlserver, triton
from bench.server_process import CannotStart


def main() -> int:
    everybody = [
        *limits.contenders(),
        *meshserve.contenders(),
        kserve.contender(),
        mlserver.contender(),
        triton.contender(),
    ]
    options = _options([each.name for each in everybody])
    console = Console(width=WIDTH)
    if not h2load.is_installed():
        console.print(f"h2load is not installed; `{h2load.HOW_TO_INSTALL}` installs it")
        return 1
    contenders = [each for each in everybody if _is_named(each.name, options.contenders)]
    for contender in contenders:
        if not contender.is_installed:
            console.print(f"{contender.name} is not installed and does not take part; `{HOW_TO_INSTALL}` installs it")
    contenders = [contender for contender in contenders if contender.is_installed]
    workloads = [each.scaled(options.share) for each in WORKLOADS if _is_named(each.name, options.workloads)]
    record = RunRecord(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=commit(ROOT),
        machine=this_machine(),
        rounds=options.rounds,
        share=options.share,
        contenders=tuple(map(ContenderRecord.of, contenders)),
        workloads=tuple(workload.name for workload in workloads),
    )
    try:
        record = uvloop.run(run(record, contenders, workloads, options.json, console))
    except KeyboardInterrupt:
        console.print(f"stopped; what was measured before is in {options.json}")
        return 130
    show(record, console)
    console.print(f"all figures: {options.json}; tables anew: python -m bench.oip.report {options.json} --markdown")
    return 1 if record.failures else 0


async def run(
    record: RunRecord, contenders: Sequence[Contender], workloads: Sequence[Workload], path: Path, console: Console
) -> RunRecord:
    """All rounds; gives `record` with what they brought, as it also stands in the file at `path`."""
    say = functools.partial(console.print, markup=False)  # what servers say may look like markup
    for round_number in range(record.rounds):
        for contender in contenders:
            say(f"round {round_number + 1} of {record.rounds}: {contender.name}")
            try:
                points = await run_turn(contender, workloads, round_number, lambda point: say(_line(point)))
            except CannotStart as error:
                say(f"  {error}")
                record = record.model_copy(update={"failures": (*record.failures, str(error))})
                continue
            record = record.model_copy(update={"points": (*record.points, *points)})
            record.write(path)
    return record


def _line(point: Point) -> str:
    if point.error is not None:
        return f"  {point.workload:26} {point.error}"
    cpu = ", ".join(f"{name} {cpu_us:,.0f}" for name, cpu_us in point.cpu_us.items())
    return f"  {point.workload:26} {point.requests_per_s:8,.0f} requests/s, p50 {point.p50_ms:8.2f} ms, CPU µs: {cpu}"


def _is_named(name: str, beginnings: Sequence[str] | None) -> bool:
    return beginnings is None or any(name.startswith(beginning) for beginning in beginnings)


def _options(names: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.oip", description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--contenders", nargs="+", metavar="NAME", help=f"beginnings of: {'; '.join(names)}")
    workloads = "; ".join(workload.name for workload in WORKLOADS)
    parser.add_argument("--workloads", nargs="+", metavar="NAME", help=f"beginnings of: {workloads}")
    parser.add_argument("--share", type=float, default=1.0, help="of the requests; below 1 for a quick look")
    parser.add_argument("--json", type=Path, default=ROOT / ".bench" / "oip.json", help="file for all figures")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

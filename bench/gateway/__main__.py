"""`python -m bench.gateway`: what the gateway adds to a call and to a token, beside a bare byte proxy; asserts nothing.

Both hops run all the time, and slices of the same load go to one and the other in turn (A B A B). CPU is of the hop's
process alone; latency is what the hop adds to that of its backend, asked without it just before. About five minutes.
"""

from __future__ import annotations

import argparse
import functools
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import uvloop
from rich.console import Console

from bench.balancing.pick_time import all_picks_us
from bench.gateway.record import Pick, RunRecord, Slice
from bench.gateway.report import WIDTH, show
from bench.gateway.rounds import WORKLOADS, Workload, run_memory, run_rounds
from bench.gateway.servers import running
from bench.machine import commit, this_machine
from bench.oip import h2load
from bench.oip.load import BadLoad
from bench.peers import ROOT
from bench.server_process import CannotStart


def main() -> int:
    options = _options()
    console = Console(width=WIDTH)
    workloads = [each.scaled(options.share) for each in WORKLOADS if each.name.startswith(tuple(options.workloads))]
    record = RunRecord(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=commit(ROOT),
        machine=this_machine(),
        rounds=options.rounds,
        share=options.share,
        workloads=tuple(each.name for each in workloads),
        client="h2load" if h2load.is_installed() else "a client in Python",
    )
    try:
        record = uvloop.run(run(record, workloads, options.json, console, with_memory=not options.no_memory))
    except (BadLoad, CannotStart) as error:
        console.print(str(error), markup=False)
        return 1
    except KeyboardInterrupt:
        console.print(f"stopped; what was measured before is in {options.json}")
        return 130
    show(record, console)
    console.print(f"all figures: {options.json}; tables anew: python -m bench.gateway.report {options.json} --markdown")
    return 0


async def run(
    record: RunRecord, workloads: Sequence[Workload], path: Path, console: Console, *, with_memory: bool
) -> RunRecord:
    """`record` with everything that was measured, as it also stands in the file at `path`.

    Raises BadLoad and CannotStart.
    """
    say = functools.partial(console.print, markup=False)
    with tempfile.TemporaryDirectory(prefix="meshserve-bench-") as name, running(Path(name)) as hops:
        async for measured in run_rounds(hops, workloads, record.rounds, Path(name)):
            say(_line(measured))
            record = record.model_copy(update={"slices": (*record.slices, measured)})
            record.write(path)
        if with_memory:
            async for look in run_memory(hops[1], record.share, Path(name)):
                say(f"  gateway after {look.requests:,} requests: {look.pss_mb:.1f} MB")
                record = record.model_copy(update={"memory": (*record.memory, look)})
                record.write(path)
    say("picks, with 256 replicas and full indexes")
    picks = [
        Pick(policy=policy, median_us=median_us, greatest_us=greatest_us)
        for policy, (median_us, greatest_us) in all_picks_us().items()
    ]
    record = record.model_copy(update={"picks": tuple(picks)})
    record.write(path)
    return record


def _line(measured: Slice) -> str:
    return (
        f"  {measured.kind} c={measured.concurrency:<3} round {measured.round} {measured.hop:16}"
        f"{measured.cpu_us:8.1f} µs CPU, {measured.units_per_s:8,.0f}/s, p50 {measured.p50_ms:7.2f} ms"
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.gateway", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    names = "; ".join(each.name for each in WORKLOADS)
    parser.add_argument("--workloads", nargs="+", default=[""], metavar="NAME", help=f"beginnings of: {names}")
    parser.add_argument("--share", type=float, default=1.0, help="of the requests; below 1 for a quick look")
    parser.add_argument("--no-memory", action="store_true", help="leave out the 100,000 requests")
    parser.add_argument("--json", type=Path, default=ROOT / ".bench" / "gateway.json", help="file for all figures")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

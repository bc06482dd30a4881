"""`python -m bench.chaos`: the real models under load while their replicas are killed, frozen and drained at random.

Prints what became of every kind of request, and ends with 1 when one failed or was answered otherwise than without
chaos, when a replica did not come back, or when a process outlived the mesh. The seed decides the order of faults and
requests; how they meet is the machine's to say.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

import uvloop
from rich.console import Console

from bench.chaos.answer import Failed
from bench.chaos.asks import asks_of
from bench.chaos.faults import Chaos, Fault
from bench.chaos.load import Load
from bench.chaos.mesh import MeshUnderTest
from bench.chaos.real_models import real_models
from bench.chaos.report import show
from bench.chaos.run import ROOT, Plan, run
from bench.server_process import CannotStart
from mesh import logs

_WIDTH = 130


def main() -> int:
    options = _options()
    logs.configure("chaos", "error", "text")
    console = Console(width=_WIDTH)
    folder = options.folder or Path(tempfile.mkdtemp(prefix="chaos-"))
    iris = folder / "iris"
    subprocess.run([sys.executable, "-m", "examples.train_iris", "--out", str(iris)], cwd=ROOT, check=True)
    scenario = real_models(iris)
    plan = Plan(scenario, asks_of(scenario), options.concurrency, options.seed, folder)

    async def rage(mesh: MeshUnderTest, chaos: Chaos, load: Load) -> None:
        def told(fault: Fault) -> None:
            failed = sum(outcome.error is not None for outcome in load.outcomes)
            wrong = sum(outcome.difference is not None for outcome in load.outcomes)
            console.print(
                f"{fault.began_s:6.1f} s  {fault.kind.value} of {fault.member}; {load.num_streaming} stream; "
                f"{len(load.outcomes)} answered, {failed} failed, {wrong} wrong"
            )

        await chaos.rage(options.seconds, told)

    try:
        record = uvloop.run(run(plan, rage, console.print))
    except (CannotStart, Failed) as error:
        console.print(f"{error}; logs: {folder}", markup=False)
        return 1
    record.write(options.json)
    show(record, console)
    console.print(f"all figures: {options.json}; logs: {folder}")
    return 0 if record.has_passed else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=180.0, help="how long faults are made")
    parser.add_argument("--concurrency", type=int, default=50, help="requests at a time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="for logs and state; a temporary one when not given")
    parser.add_argument("--json", type=Path, default=ROOT / ".bench" / "chaos.json", help="file for all figures")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())

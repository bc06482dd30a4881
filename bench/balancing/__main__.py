"""`python -m bench.balancing`: how well each policy chooses, in virtual time; `… pick`: the CPU time of a choice.

Prints tables, and writes plots with `--plots`. Every figure but the time of a pick hangs on the seeds alone.
"""

from __future__ import annotations

import argparse
import os
import statistics
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from bench.balancing.grid import CHOICES, SETTINGS, Results, run_grid
from bench.balancing.pick_time import all_picks_us, hash_us
from bench.balancing.plot import bars
from bench.balancing.report import pick_sheet, sheets
from bench.sheet import Sheet

WIDTH = 220


def main() -> None:
    """Run what is asked for."""
    options = _options()
    console = Console(width=WIDTH)
    shown: list[Sheet] = []
    if options.what == "grid":
        names = options.settings or list(SETTINGS)
        choices = options.choices or CHOICES
        with Progress(console=Console(stderr=True)) as progress:
            task = progress.add_task("runs", total=len(names) * len(choices) * options.seeds)
            results = run_grid(
                names,
                choices,
                options.seeds,
                share=options.share,
                processes=options.processes,
                done=lambda: progress.advance(task),
            )
        shown += sheets(results)
        if options.plots:
            write_plots(results, options.plots)
    shown.append(pick_sheet(all_picks_us(), hash_us()))
    for sheet in shown:
        if options.markdown:
            print(sheet.markdown(), end="\n\n")
        else:
            console.print(sheet.rich())


def write_plots(results: Results, folder: Path) -> None:
    """balancing_hit_rate.svg and balancing_p99.svg: the medians of the seeds."""
    groups = list(dict.fromkeys(setting for setting, _ in results))
    choices = list(dict.fromkeys(choice for _, choice in results))
    folder.mkdir(parents=True, exist_ok=True)
    for name, title, attribute, limit in (
        ("hit_rate", "Prompt tokens that were cached where the request went, %", "hit_rate", 100.0),
        ("p99", "Latency p99, seconds", "latency_p99_s", 40.0),
    ):
        factor = 100 if attribute == "hit_rate" else 1
        series = {
            choice: [
                factor * statistics.median(getattr(one, attribute) for one in results[group, choice])
                for group in groups
            ]
            for choice in choices
        }
        (folder / f"balancing_{name}.svg").write_text(bars(title, groups, series, limit), encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.balancing", description=__doc__)
    parser.add_argument("what", nargs="?", choices=("grid", "pick"), default="grid")
    parser.add_argument("--settings", nargs="*", choices=list(SETTINGS), help="of the grid; all by default")
    parser.add_argument("--choices", nargs="*", choices=CHOICES, help="policies and ideals; all by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--share", type=float, default=1.0, help="of each setting's requests, for a quick look")
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--plots", type=Path, help="folder to write SVG files to")
    return parser.parse_args()


if __name__ == "__main__":
    main()

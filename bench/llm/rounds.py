"""Every contender in turn, one at a time, again and again; what they did goes into a record.

A turn: start, warm up, all workloads, end. Prompts are the same for all contenders, and other ones in every round.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.llm.contender import Contender
from bench.llm.figures import figures_of
from bench.llm.load import run_load
from bench.llm.prompts import PromptWriter
from bench.llm.record import Point, Start
from bench.llm.server import Server, running
from bench.llm.workloads import WARM_UP, Workload
from bench.processes import PeakMemory, cpu_shares, cpu_times, memory_bytes

MEGABYTE = 1e6


async def run_turn(
    contender: Contender,
    workloads: Sequence[Workload],
    words: Sequence[str],
    round_number: int,
    share: float,
    tell: Callable[[Point], None],
) -> tuple[Start, list[Point]]:
    """One start of one contender. Raises CannotStart.

    share: of the requests of each workload. tell: is told each point as soon as it is there.
    """
    with tempfile.TemporaryDirectory(prefix="meshserve-bench-") as folder:
        async with running(contender, Path(folder)) as server:
            idle_bytes = memory_bytes(server.pid)
            points = []
            async with PeakMemory(server.pid) as peak:
                warm_up = WARM_UP.scaled(share).requests(PromptWriter(words, f"warm-up {round_number}"))
                await run_load(server.client, warm_up, WARM_UP.concurrency)
                for workload in workloads:
                    points.append(await _point(contender, server, workload.scaled(share), words, round_number))
                    tell(points[-1])
        start = Start(
            contender=contender.name,
            round=round_number,
            start_s=server.start_s,
            idle_memory_mb=idle_bytes / MEGABYTE,
            peak_memory_mb=peak.size_bytes / MEGABYTE,
        )
        return start, points


async def _point(
    contender: Contender, server: Server, workload: Workload, words: Sequence[str], round_number: int
) -> Point:
    requests = workload.requests(PromptWriter(words, f"{workload.name} {round_number}"))
    before = cpu_times(server.pid)
    answers = await run_load(server.client, requests, workload.concurrency)
    cpu = cpu_shares(before, cpu_times(server.pid), os.cpu_count() or 1)
    return Point(
        contender=contender.name, workload=workload.name, round=round_number, figures=figures_of(answers), cpu=cpu
    )

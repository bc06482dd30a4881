"""A run from nothing to its record: start the mesh, ask calmly, ask under chaos, end everything, look what is left."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from bench.chaos.asks import Ask, Clients
from bench.chaos.faults import Chaos
from bench.chaos.load import Load, right_answers
from bench.chaos.mesh import MeshUnderTest, running_mesh
from bench.chaos.record import ChaosRecord, NumMembers
from bench.chaos.scenario import Scenario
from bench.machine import commit, this_machine
from bench.processes import memory_bytes

ROOT = Path(__file__).resolve().parents[2]
_CALM_CONCURRENCY = 8

# What is done to the mesh while the load runs.
Script = Callable[[MeshUnderTest, Chaos, Load], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Plan:
    """asks: repeated by `concurrency` clients at a time. folder: for logs and state; holds nothing of another run."""

    scenario: Scenario
    asks: list[Ask]
    concurrency: int
    seed: int
    folder: Path


async def run(plan: Plan, script: Script, say: Callable[[str], None] = lambda words: None) -> ChaosRecord:
    """The record of one run. Raises CannotStart, or Failed when an ask fails without chaos."""
    rng = random.Random(plan.seed)
    say("starting the mesh")
    async with running_mesh(plan.scenario, plan.folder) as mesh:
        async with Clients(mesh.http_url, mesh.gateway.address, plan.scenario.timeout_s) as clients:
            say(f"{len(plan.asks)} requests without chaos")
            expected = await right_answers(plan.asks, clients, _CALM_CONCURRENCY)
            before = memory_bytes(mesh.gateway.pid)
            load = Load(plan.asks, expected, clients, rng=random.Random(rng.random()))
            chaos = Chaos(mesh, rng, load.clock_s)
            await _under_load(load, plan.concurrency, script(mesh, chaos, load))
            seconds = load.clock_s()
            await chaos.count_moved()
            after = memory_bytes(mesh.gateway.pid)
        say("ending the mesh")
        orphans = await mesh.stop()
    return ChaosRecord(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=commit(ROOT),
        machine=this_machine(),
        seed=plan.seed,
        concurrency=plan.concurrency,
        seconds=seconds,
        num_asks=len(plan.asks),
        outcomes=tuple(load.outcomes),
        faults=tuple(chaos.faults),
        num_moved=chaos.num_moved,
        num_members=NumMembers(plan.scenario.num_predictors, plan.scenario.num_transformers),
        trouble=tuple(chaos.trouble),
        orphans=tuple(orphans),
        gateway_bytes=(before, after),
    )


async def _under_load(load: Load, concurrency: int, script: Awaitable[None]) -> None:
    """Run the script while the load runs; the last requests come to their end."""
    is_over = asyncio.Event()
    loading = asyncio.create_task(load.run(concurrency, is_over))
    try:
        await script
    finally:
        is_over.set()
        await loading

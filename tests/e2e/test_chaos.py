"""`make chaos-gateway` in short, with models that cost nothing: replicas die, freeze and drain, and nobody notices."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from bench.chaos.asks import asks_of
from bench.chaos.faults import Chaos, FaultKind
from bench.chaos.load import Load
from bench.chaos.mesh import MeshUnderTest
from bench.chaos.report import failures_in_words
from bench.chaos.run import Plan, run
from mesh.testing import eventually
from tests.e2e.chaos_predictor import chaos_scenario

CONCURRENCY = 24


async def each_fault_once(mesh: MeshUnderTest, chaos: Chaos, load: Load) -> None:
    """Two faults at a time, while streams run; one predictor is left alone each time."""
    first, second, third = mesh.predictors
    for faults in (
        ((FaultKind.KILL, first), (FaultKind.FREEZE, second)),
        ((FaultKind.DRAIN, third), (FaultKind.KILL_ENGINE, first)),
        ((FaultKind.KILL, mesh.registry), (FaultKind.KILL, mesh.transformers[0])),
    ):
        await eventually(lambda: load.num_streaming > CONCURRENCY // 2, 60)
        await asyncio.gather(*(chaos.inflict(kind, victim) for kind, victim in faults))


@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_no_request_fails_and_no_answer_changes_while_replicas_are_killed_frozen_and_drained(
    tmp_path: Path,
) -> None:
    scenario = chaos_scenario(tmp_path)
    plan = Plan(scenario, asks_of(scenario, num_prompts=3, max_tokens=60), CONCURRENCY, 1, tmp_path / "mesh")

    record = await run(plan, each_fault_once)

    assert record.has_passed, failures_in_words(record)
    assert record.fewest_healthy == (1, 1)
    assert record.num_moved > 0

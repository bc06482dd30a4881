"""Whatever chaos draws, each service keeps a member that is healthy: else a failed request would prove nothing."""

from __future__ import annotations

import itertools
import random
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from bench.chaos.faults import OF_PREDICTORS, Chaos, Fault, FaultKind, Told
from bench.chaos.member import Member
from bench.chaos.mesh import MeshUnderTest
from bench.chaos.scenario import Roughness, Scenario


def mesh_in(folder: Path, num_predictors: int, num_transformers: int) -> MeshUnderTest:
    scenario = Scenario((), "m", "t", (), num_predictors=num_predictors, num_transformers=num_transformers)
    return MeshUnderTest(scenario, folder)


@settings(max_examples=50, deadline=None)
@given(
    num_predictors=st.integers(1, 4),
    num_transformers=st.integers(1, 3),
    draws=st.lists(st.tuples(st.integers(0, 10**6), st.booleans()), max_size=30),
)
def test_a_healthy_member_of_each_service_is_left_after_any_faults_and_recoveries(
    num_predictors: int, num_transformers: int, draws: list[tuple[int, bool]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        mesh = mesh_in(Path(folder), num_predictors, num_transformers)
    chaos = Chaos(mesh, random.Random(1), lambda: 0.0)

    for draw, heals in draws:
        possible = chaos.possible()
        if heals and chaos.harmed:
            chaos.harmed.remove(sorted(chaos.harmed, key=lambda member: member.name)[draw % len(chaos.harmed)])
        elif possible:
            chaos.harmed.add(possible[draw % len(possible)][1])

        assert set(mesh.predictors) - chaos.harmed
        assert set(mesh.transformers) - chaos.harmed
        assert mesh.gateway not in chaos.harmed, "there is no other door"


class Noting(Chaos):
    """Notes the faults instead of making them."""

    async def inflict(self, kind: FaultKind, member: Member, told: Told | None = None) -> None:
        self.faults.append(Fault(kind, member.name, 0.0))


async def test_faults_come_in_an_order_that_the_seed_alone_decides(tmp_path: Path) -> None:
    scenario = Scenario((), "m", "t", (), roughness=Roughness(pause_s=(0.0, 0.0)))
    drawn = []
    for number, seed in enumerate((7, 7, 8)):
        mesh, ticks = MeshUnderTest(scenario, tmp_path / str(number)), itertools.count()
        chaos = Noting(mesh, random.Random(seed), lambda ticks=ticks: next(ticks))
        await chaos.rage(20.0, lambda fault: None)
        drawn.append([(fault.kind, fault.member) for fault in chaos.faults])

    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 19


def test_every_way_to_fail_comes_up(tmp_path: Path) -> None:
    mesh = mesh_in(tmp_path / "mesh", 3, 2)
    possible = Chaos(mesh, random.Random(1), lambda: 0.0).possible()

    assert {kind for kind, member in possible if member in mesh.predictors} == set(OF_PREDICTORS) == set(FaultKind)
    assert {member for _, member in possible} == {*mesh.predictors, *mesh.transformers, mesh.registry}


def test_one_that_is_not_healthy_is_let_alone(tmp_path: Path) -> None:
    mesh = mesh_in(tmp_path / "mesh", 3, 2)
    chaos = Chaos(mesh, random.Random(1), lambda: 0.0)

    chaos.harmed |= {mesh.predictors[0], mesh.registry}

    assert not chaos.harmed & {member for _, member in chaos.possible()}

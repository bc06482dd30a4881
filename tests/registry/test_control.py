"""What is stored is told: once, in order, and also when the caller has gone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mesh.errors import InvalidInput
from mesh.testing import eventually
from mesh.v1.registry_pb2 import Deployment, PredictorSpec
from registry.catalog import Catalog
from registry.control import ControlPlane, deployment_of, spec_of
from registry.database import Database
from registry.leases import Leases
from registry.watch import WatchLog


def deployment(name: str, uri: str = "file:///m") -> Deployment:
    spec = PredictorSpec(model_format="x", storage_uri=uri, options={"b": "1", "a": "2"})
    return Deployment(name=name, predictor=spec)


@pytest.fixture
def watch_log() -> WatchLog:
    return WatchLog("e1")


@pytest.fixture
async def control(tmp_path: Path, watch_log: WatchLog) -> AsyncIterator[ControlPlane]:
    database = Database(f"sqlite:///{tmp_path}/registry.db")
    control = ControlPlane(Catalog(database, lambda: datetime.now(UTC)), watch_log, Leases(lambda: 0.0))
    await control.start(seed=[deployment("seeded")])
    yield control
    await control.close()
    database.close()


async def test_seed_is_applied_once(control: ControlPlane, watch_log: WatchLog) -> None:
    assert set(control.view.deployments) == {"seeded"}
    revision = watch_log.revision
    await control.apply_deployment(deployment("seeded"))

    assert watch_log.revision == revision


async def test_restart_with_the_same_file_undoes_nothing_and_another_file_is_applied(tmp_path: Path) -> None:
    async def started_with(uri: str, change_to: str = "") -> tuple[str, int]:
        database = Database(f"sqlite:///{tmp_path}/registry.db")
        catalog = Catalog(database, lambda: datetime.now(UTC))
        known = [deployment_of(record) for record in catalog.deployments()]
        control = ControlPlane(catalog, WatchLog("e", known), Leases(lambda: 0.0))
        await control.start(seed=[deployment("iris", uri)])
        found = control.view.deployments["iris"]
        if change_to:
            await control.apply_deployment(deployment("iris", change_to))
        await control.close()
        database.close()
        return found.predictor.storage_uri, found.generation

    assert await started_with("file:///1", change_to="file:///promoted") == ("file:///1", 1)
    assert await started_with("file:///1") == ("file:///promoted", 2)
    assert await started_with("file:///2") == ("file:///2", 3)
    assert await started_with("file:///1") == ("file:///1", 4)


async def test_event_is_there_when_the_answer_is(control: ControlPlane) -> None:
    for number in range(20):
        stored = await control.apply_deployment(deployment("iris", f"file:///{number}"))
        assert control.view.deployments["iris"] == stored
        assert stored.generation == number + 1


async def test_concurrent_changes_are_told_in_the_order_of_their_generations(
    control: ControlPlane, watch_log: WatchLog
) -> None:
    await asyncio.gather(*(control.apply_deployment(deployment("iris", f"file:///{n}")) for n in range(30)))
    generations = []
    revision = 2  # the seed's
    while (event := watch_log.next_after(revision, "e1")) is not None:
        generations.append(event.deployment_applied.generation)
        revision = event.revision

    assert generations == list(range(1, 31))


async def test_caller_who_goes_away_loses_no_event(control: ControlPlane) -> None:
    calls = [asyncio.create_task(control.apply_deployment(deployment(f"d{n}"))) for n in range(20)]
    await asyncio.sleep(0)
    for call in calls:
        call.cancel()
    await asyncio.gather(*calls, return_exceptions=True)
    await control.apply_deployment(deployment("last"))

    # Read anew each time: a call that nobody waits for any more may still store its deployment.
    await eventually(
        lambda: set(control.view.deployments) == {record.name for record in control._catalog.deployments()}
    )


async def test_withdrawal_needs_an_id(control: ControlPlane) -> None:
    with pytest.raises(InvalidInput, match="replica_id is empty"):
        control.withdraw("")


def test_spec_is_the_same_text_for_the_same_content() -> None:
    one, other = deployment("iris"), deployment("iris")
    other.predictor.options.clear()
    other.predictor.options["a"] = "2"
    other.predictor.options["b"] = "1"
    other.generation = 7

    assert spec_of(one) == spec_of(other)


async def test_further_versions_are_stored_with_what_they_take_from_the_deployed_one(control: ControlPlane) -> None:
    given = deployment("iris")
    given.predictor.versions.add(model_version="2", storage_uri="file:///two")

    stored = await control.apply_deployment(given)
    records = await asyncio.to_thread(control._catalog.deployments)

    assert [(version.model_version, version.model_format) for version in stored.predictor.versions] == [("2", "x")]
    assert deployment_of(records[0]) == stored
    given.predictor.versions.add(model_version="2")
    with pytest.raises(InvalidInput, match="is there twice"):
        await control.apply_deployment(given)


async def test_record_gives_the_deployment_back(control: ControlPlane) -> None:
    stored = await control.apply_deployment(deployment("iris"))
    records = await asyncio.to_thread(control._catalog.deployments)

    assert deployment_of(records[0]) == stored

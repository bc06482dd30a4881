"""`meshserve traffic`, `promote` and `rollback` against a real registry: what they show, change and refuse."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mesh.testing import serve_on_free_port
from mesh.v1 import registry_pb2 as pb
from tests.cli.registry_rig import Rig, running_registry


@pytest.fixture
async def rig(tmp_path: Path, run_cli: Any) -> AsyncIterator[Rig]:
    async with running_registry(tmp_path, run_cli) as running:
        yield running


async def test_traffic_is_shown_to_people(rig: Rig) -> None:
    changed = await rig.run(
        "traffic", "--canary", "2=10%", "--mirror", "3=50", "--rule", "X-Group:beta=2", "--tag", "old=1",
        "--sticky-header", "x-session", "--fallback", "simple",
    )  # fmt: skip
    shown = await rig.run("traffic")

    assert shown.out == changed.out
    assert [line.split() for line in shown.out.splitlines()[:4]] == [
        ["version", "role", "requests", "copies", "ready", "replicas"],
        ["1", "deployed", "90", "%", "1"],
        ["2", "canary", "10", "%", "1"],
        ["3", "mirror", "0", "%", "50", "%", "0"],
    ]
    assert [line.rstrip() for line in shown.out.splitlines()[4:]] == [
        "rule: header x-group = beta -> version 2",
        "rule: tag old -> version 1",
        "sessions: by header x-session",
        "fallback: simple",
    ]
    assert rig.iris.generation == 2


async def test_looking_changes_nothing_and_clear_takes_away(rig: Rig) -> None:
    assert (await rig.shown("traffic"))["generation"] == 1
    await rig.shown("traffic", "--canary", "2=10", "--tag", "a=2", "--fallback", "simple")

    cleared = await rig.shown("traffic", "--clear", "--canary", "3=5")

    assert (cleared["generation"], cleared["rules"], cleared["fallback"]) == (3, [], "simple")
    assert {one["version"]: one["percent"] for one in cleared["versions"]} == {"1": 95, "2": 0, "3": 5}


async def test_promote_and_rollback(rig: Rig) -> None:
    await rig.shown("traffic", "--canary", "2=10")

    promoted = await rig.shown("promote")
    deployed = rig.iris.predictor.storage_uri
    back = await rig.shown("rollback")
    await rig.shown("traffic", "--canary", "2=10")
    stopped = await rig.shown("rollback")

    assert [(one["version"], one["role"]) for one in promoted["versions"]] == [
        ("2", "deployed"),
        ("1", "previous"),
        ("3", ""),
    ]
    assert (promoted["previous_version"], deployed) == ("1", "file:///2")
    assert [one["version"] for one in back["versions"]] == ["1", "2", "3"]
    assert [one["percent"] for one in stopped["versions"]] == [100, 0, 0]
    assert rig.iris.predictor.storage_uri == "file:///1"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("traffic", "--canary", "2"), "--canary '2' is no VERSION=PERCENT; write it like --canary 2=10"),
        (("traffic", "--canary", "2=101"), "--canary '2=101' is no VERSION=PERCENT"),
        (
            ("traffic", "--canary", "9=5"),
            "traffic.canary.model_version '9' is no version of the deployment; it has 1, 2",
        ),
        (("traffic", "--rule", "x-a"), "--rule 'x-a' is no HEADER:VALUE=VERSION"),
        (("traffic", "--tag", "=2"), "--tag '=2' is no TAG=VERSION"),
        (("traffic", "--sticky-header", "a b"), "traffic.sticky_header 'a b' is no name of a header"),
        (("promote",), "'iris' has no canary; name the version to promote with --model-version"),
        (("promote", "--model-version", "3"), "no replica has version 3 of 'iris' ready; `meshserve models` says what"),
        (("rollback",), "'iris' has neither a canary nor a version before this one"),
    ],
)
async def test_what_cannot_be_is_said_in_a_sentence(rig: Rig, arguments: tuple[str, ...], sentence: str) -> None:
    result = await rig.run(*arguments)

    assert result.status == 1
    assert result.err.startswith(f"meshserve: {sentence}")
    assert rig.iris.generation == 1


async def test_rollback_to_what_no_replica_has_any_more_is_refused(rig: Rig) -> None:
    await rig.shown("promote", "--model-version", "2")
    models = [pb.ServedModel(name="iris", version="2", ready=True)]
    rig.control.announce(pb.Replica(id="p", kind=pb.SERVICE_KIND_PREDICTOR, address="127.0.0.1:1", models=models), 300)

    result = await rig.run("rollback")

    assert result.err.startswith("meshserve: no replica has version 1 of 'iris' ready")


async def test_names_and_addresses_that_are_wrong(rig: Rig, run_cli: Any) -> None:
    unknown = await asyncio.to_thread(run_cli, "traffic", "rose", "--registry", rig.address)
    absent = await asyncio.to_thread(run_cli, "traffic", "iris", "--registry", "127.0.0.1:1")
    wrong = await asyncio.to_thread(run_cli, "promote", "iris", "--registry", "here")
    async with serve_on_free_port() as address:
        other = await asyncio.to_thread(run_cli, "rollback", "iris", "--registry", address)

    assert unknown.err == "meshserve: 'rose' is not deployed; deployed: iris\n"
    assert absent.err.startswith("meshserve: no registry answers at 127.0.0.1:1; start a mesh with")
    assert wrong.err == "meshserve: --registry 'here' is no address; write it like 127.0.0.1:8090\n"
    assert other.err == f"meshserve: what answers at {address} is no registry; name one with --registry\n"

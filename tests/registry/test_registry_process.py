"""`python -m registry` as a process: it starts, keeps what it was told, stops clean, and fails with a sentence."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mesh.channel import open_channel
from mesh.testing import eventually
from mesh.v1 import registry_pb2 as pb
from mesh.v1.registry_pb2_grpc import RegistryServiceStub

FREE_PORTS = ("--grpc-port", "0", "--metrics-port", "0")


async def spawn(*flags: str) -> asyncio.subprocess.Process:
    command = (sys.executable, "-m", "registry", "--drain-s", "0", *FREE_PORTS, *flags)
    return await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )


@asynccontextmanager
async def running(folder: Path, *flags: str) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    ready_file = folder / "ready.json"
    ready_file.unlink(missing_ok=True)
    process = await spawn("--state-dir", str(folder), "--ready-file", str(ready_file), *flags)
    try:
        await eventually(ready_file.exists, timeout_s=60)
        yield process, json.loads(ready_file.read_text())["grpc_address"]
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def test_killed_registry_comes_back_with_everything_it_acknowledged(tmp_path: Path) -> None:
    draft = pb.ModelVersion(model_name="iris", artifact_uri="file:///m", model_format="sklearn")
    spec = pb.PredictorSpec(model_format="sklearn", storage_uri="file:///m")
    async with running(tmp_path) as (process, address), open_channel(address) as channel:
        stub = RegistryServiceStub(channel)
        await stub.CreateModelVersion(pb.CreateModelVersionRequest(model_version=draft), timeout=15)
        alias = pb.SetModelAliasRequest(model_name="iris", alias="champion", version="1")
        await stub.SetModelAlias(alias, timeout=15)
        deployment = pb.Deployment(name="iris", predictor=spec)
        await stub.ApplyDeployment(pb.ApplyDeploymentRequest(deployment=deployment), timeout=15)
        first = await stub.Watch(pb.WatchRequest()).read()
        process.kill()
        await process.wait()

    async with running(tmp_path) as (process, address), open_channel(address) as channel:
        stub = RegistryServiceStub(channel)
        by_alias = pb.GetModelVersionRequest(model_name="iris", alias="champion")
        found = await stub.GetModelVersion(by_alias, timeout=15)
        again = await stub.Watch(pb.WatchRequest(after_revision=first.revision, epoch=first.epoch)).read()

    assert found.model_version.version == "1"
    assert again.epoch != first.epoch
    assert again.snapshot.deployments == first.snapshot.deployments


async def test_sigterm_with_an_open_watch_ends_soon_and_with_zero(tmp_path: Path) -> None:
    async with running(tmp_path) as (process, address), open_channel(address) as channel:
        watch = RegistryServiceStub(channel).Watch(pb.WatchRequest())
        await watch.read()
        process.send_signal(signal.SIGTERM)

        async with asyncio.timeout(15):
            assert await process.wait() == 0


async def test_deployments_file_is_applied_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "mesh.yaml"
    path.write_text("deployments: [{name: iris, predictor: {model_format: sklearn, storage_uri: 'file:///m'}}]")
    async with (
        running(tmp_path, "--deployments", str(path)) as (_, address),
        open_channel(address) as channel,
    ):
        first = await RegistryServiceStub(channel).Watch(pb.WatchRequest()).read()

    assert [deployment.name for deployment in first.snapshot.deployments] == ["iris"]


@pytest.mark.parametrize(
    ("deployments", "sentence"),
    [
        ("deployments: [{name: iris}]", "deployment 'iris': predictor is not set"),
        ("deployments: [", "mesh.yaml: is not YAML"),
    ],
)
async def test_wrong_deployments_file_ends_the_start_with_one_sentence(
    tmp_path: Path, deployments: str, sentence: str
) -> None:
    path = tmp_path / "mesh.yaml"
    path.write_text(deployments)
    process = await spawn("--state-dir", str(tmp_path), "--deployments", str(path))
    _, stderr = await asyncio.wait_for(process.communicate(), 60)

    assert process.returncode == 1
    assert sentence in stderr.decode()
    assert "Traceback" not in stderr.decode()


async def test_unusable_database_ends_the_start_with_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "registry.db").write_text("this is text " * 1000)
    process = await spawn("--state-dir", str(tmp_path))
    _, stderr = await asyncio.wait_for(process.communicate(), 60)

    assert process.returncode == 1
    assert "cannot be used now: file is not a database" in stderr.decode()
    assert "Traceback" not in stderr.decode()

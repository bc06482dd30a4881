"""The registry's client: where the registry is, and of two that change the same deployment the second is told so."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cli.failure import Failure
from cli.registry_client import DEFAULT_ADDRESS, RegistryClient, deployment_in, registry_address
from cli.rollout import with_canary
from cli.target import Target
from deploy.local.run_info import RunInfo, ServiceInfo
from tests.cli.registry_rig import running_registry


async def test_a_change_that_was_overtaken_is_refused(tmp_path: Path, run_cli: Any) -> None:
    async with running_registry(tmp_path, run_cli) as rig:
        client = RegistryClient(rig.address, timeout_s=10)

        def change_twice() -> None:
            deployment = deployment_in(client.snapshot(), "iris")
            client.apply(with_canary(deployment, "2", 10))
            client.apply(with_canary(deployment, "2", 90))

        with pytest.raises(Failure, match="somebody else changed the deployment at the same time; look at it"):
            await asyncio.to_thread(change_twice)
        assert rig.iris.traffic.canary.percent == 10


async def test_what_listens_and_never_answers_is_given_up() -> None:
    async def hold(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with_end.append(writer)

    with_end: list[asyncio.StreamWriter] = []
    server = await asyncio.start_server(hold, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()

    with pytest.raises(Failure, match=r"no answer within 0\.2 s; allow more with --timeout"):
        await asyncio.to_thread(RegistryClient(f"{host}:{port}", timeout_s=0.2).snapshot)
    for writer in with_end:
        writer.close()
    server.close()


def test_the_registry_is_the_one_that_is_given_or_the_local_meshs_or_the_usual_one() -> None:
    service = ServiceInfo("registry", "serving", 1, 0.0, 0, "127.0.0.1:7", "127.0.0.1:8", None, "log")
    local = Target("http://127.0.0.1:1", RunInfo(1, 0.0, "http://127.0.0.1:1", (service,), ()))

    assert registry_address("10.0.0.7:8090", local) == "10.0.0.7:8090"
    assert registry_address(None, local) == "127.0.0.1:7"
    assert registry_address(None, Target("http://127.0.0.1:1", None)) == DEFAULT_ADDRESS
    for wrong in ("here", ":80", "a:0", "a:70000", "a:x"):
        with pytest.raises(Failure, match="is no address"):
            registry_address(wrong, local)

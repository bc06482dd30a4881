"""`meshserve status`: asks every service now; the exit status says whether all serve."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from cli.status import health_of, status
from deploy.local.run_info import RunInfo, ServiceInfo, write_run_info
from deploy.local.state_dir import StateDir
from mesh.testing import serve_on_free_port

STATUS = health_pb2.HealthCheckResponse.ServingStatus


def service(name: str, address: str) -> ServiceInfo:
    return ServiceInfo(name, "serving", 42, 1.0, 3, address, "127.0.0.1:1", None, "x.log")


async def test_health_is_what_the_service_says() -> None:
    health = health_aio.HealthServicer()
    async with serve_on_free_port((health_pb2_grpc.add_HealthServicer_to_server, health)) as address:
        import asyncio

        await health.set("", STATUS.SERVING)
        assert await asyncio.to_thread(health_of, address, 5) == "serving"
        await health.set("", STATUS.NOT_SERVING)
        assert await asyncio.to_thread(health_of, address, 5) == "not serving"
    assert await asyncio.to_thread(health_of, address, 5) == "no answer"


def test_all_is_well_at_a_gateway_elsewhere(fake_gateway: Any, run_cli: Any) -> None:
    result = run_cli("status", "--gateway", fake_gateway.url)

    assert result.status == 0
    assert result.out.splitlines()[1].split()[:3] == ["gateway", "serving", fake_gateway.url]


def test_a_model_that_is_not_ready_is_status_1(fake_gateway: Any, run_cli: Any) -> None:
    fake_gateway.index[0].update(state="LOADING")

    assert run_cli("status", "--gateway", fake_gateway.url).status == 1


def test_a_service_that_does_not_answer_is_status_1(fake_gateway: Any, run_cli: Any, tmp_path: Path) -> None:
    state = StateDir(tmp_path)
    with state.locked():
        write_run_info(state.run_file, RunInfo(41, 1.0, fake_gateway.url, (service("registry", "127.0.0.1:1"),), ()))

        result = run_cli("status", "--state-dir", str(tmp_path), "--json")

    assert result.status == 1
    (registry,) = json.loads(result.out)["services"]
    assert (registry["health"], registry["pid"], registry["restarts"]) == ("no answer", 42, 3)
    assert len(json.loads(result.out)["models"]) == 2


def test_no_mesh_is_a_sentence(run_cli: Any) -> None:
    result = run_cli("status", "--gateway", "http://127.0.0.1:1")

    assert (result.status, result.out) == (1, "")
    assert "no mesh answers" in result.err


def test_the_verb_has_its_help() -> None:
    assert status.__doc__ is not None
    assert "Examples" in status.__doc__


@pytest.mark.parametrize(("seconds", "words"), [(5.0, "5 s"), (65.0, "1 min 5 s"), (7300.0, "2 h 1 min"), (None, None)])
def test_durations_are_readable(seconds: float | None, words: str | None) -> None:
    from cli.status import _duration

    assert _duration(seconds) == words

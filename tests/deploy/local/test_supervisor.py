"""The supervisor over real processes that fake the services: order, readiness, restarts, and the end of all of them."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from deploy.local.backoff import BackoffPolicy
from deploy.local.events import (
    MeshReady,
    ModelFailed,
    ModelProgress,
    ModelServing,
    ServiceEnded,
    ServiceKilled,
    ServiceServing,
    ServiceStarted,
    ServiceStopping,
    StillWaiting,
)
from deploy.local.run_info import RunInfo, read_run_info
from deploy.local.supervisor import StartFailed


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def answers(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        response = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=5)
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)


async def test_a_service_starts_only_when_those_it_needs_serve(fake_mesh: Any) -> None:
    specs = (fake_mesh.spec("registry"), fake_mesh.spec("gateway", after=("registry",)))

    async with fake_mesh.supervised(*specs):
        await fake_mesh.record.until_ready()

    steps = [
        (type(event).__name__, event.service)
        for event in fake_mesh.record.events
        if isinstance(event, ServiceStarted | ServiceServing)
    ]
    assert steps == [
        ("ServiceStarted", "registry"),
        ("ServiceServing", "registry"),
        ("ServiceStarted", "gateway"),
        ("ServiceServing", "gateway"),
    ]


async def test_services_stop_wave_by_wave_and_none_is_left(fake_mesh: Any) -> None:
    specs = (
        fake_mesh.spec("registry", stop_wave=2),
        fake_mesh.spec("predictor", stop_wave=1),
        fake_mesh.spec("gateway", stop_wave=0),
    )

    async with fake_mesh.supervised(*specs):
        await fake_mesh.record.until_ready()

    assert [event.service for event in fake_mesh.record.of(ServiceStopping)] == [
        "gateway",
        "predictor",
        "registry",
    ]
    assert not any(is_alive(event.pid) for event in fake_mesh.record.of(ServiceStarted))
    assert not fake_mesh.record.of(ServiceKilled)
    assert '"stopped"' in specs[0].log_path.read_text()
    assert not fake_mesh.state.run_file.exists()


async def test_a_killed_service_comes_back_on_the_same_port_with_no_other_action(fake_mesh: Any) -> None:
    spec, other = fake_mesh.spec("predictor"), fake_mesh.spec("gateway")
    record = fake_mesh.record

    async with fake_mesh.supervised(spec, other) as supervisor:
        await record.until_ready()
        first = next(event for event in record.of(ServiceStarted) if event.service == "predictor")
        os.kill(first.pid, signal.SIGKILL)
        await record.until(lambda: len(record.of(ServiceServing)) == 3)

        assert answers(spec.grpc_address)
        assert supervisor.services["predictor"].info().restarts == 1
        assert supervisor.services["gateway"].info().restarts == 0
    (ended,) = record.of(ServiceEnded)
    assert (ended.service, ended.how) == ("predictor", "was killed by SIGKILL")


async def test_what_a_killed_service_started_dies_with_it(fake_mesh: Any) -> None:
    spec = fake_mesh.spec("predictor", "--grandchild")
    record = fake_mesh.record

    async with fake_mesh.supervised(spec):
        await record.until_ready()
        (started,) = record.of(ServiceStarted)
        (grandchild,) = psutil.Process(started.pid).children()
        os.kill(started.pid, signal.SIGKILL)
        await record.until(lambda: len(record.of(ServiceServing)) == 2)

        assert not is_alive(grandchild.pid)


async def test_a_service_that_keeps_dying_is_named_with_its_last_words(fake_mesh: Any) -> None:
    backoff = BackoffPolicy(first_s=0.01, max_s=1.0)

    with pytest.raises(StartFailed, match=r"gateway ended with status 1 before it served, 3 times.*the cat sat"):
        async with fake_mesh.supervised(
            fake_mesh.spec("registry"), fake_mesh.spec("gateway", behaviour="die"), backoff=backoff
        ):
            await fake_mesh.record.until(lambda: len(fake_mesh.record.of(ServiceStopping)) == 2)

    assert [event.restart_in_s for event in fake_mesh.record.of(ServiceEnded)] == [0.01, 0.02, 0.04]
    assert not any(is_alive(event.pid) for event in fake_mesh.record.of(ServiceStarted))


async def test_a_wrong_setting_is_not_tried_again(fake_mesh: Any) -> None:
    with pytest.raises(StartFailed, match="gateway ended with status 2"):
        async with fake_mesh.supervised(fake_mesh.spec("gateway", behaviour="bad-setting")):
            await fake_mesh.record.until(lambda: bool(fake_mesh.record.of(ServiceStopping)))

    assert len(fake_mesh.record.of(ServiceStarted)) == 1


async def test_a_service_that_never_answers_is_named(fake_mesh: Any) -> None:
    specs = (fake_mesh.spec("registry"), fake_mesh.spec("explainer", behaviour="mute"))

    with pytest.raises(StartFailed, match=r"explainer does not serve after 1\.5 s; its last words: still_thinking"):
        async with fake_mesh.supervised(*specs, start_s=1.5):
            await fake_mesh.record.until(lambda: len(fake_mesh.record.of(ServiceStopping)) == 2)

    assert any("explainer (starting)" in event.awaited for event in fake_mesh.record.of(StillWaiting))


async def test_a_model_on_its_way_is_awaited_with_its_progress(fake_mesh: Any) -> None:
    spec = fake_mesh.spec("predictor", behaviour="late-model", models=("smollm2",))
    record = fake_mesh.record

    async with fake_mesh.supervised(spec):
        await record.until(lambda: bool(record.of(StillWaiting)) and len(record.of(ModelProgress)) == 2)
        await record.until(lambda: record.of(StillWaiting)[-1].awaited == ("smollm2 (download, 98 of 98 MB)",))
        assert not record.of(MeshReady)
        Path(f"{spec.ready_file}.go").touch()
        await record.until_ready()

    assert record.of(ModelServing) == [ModelServing("smollm2")]


async def test_a_model_that_cannot_be_loaded_does_not_hold_up_the_others(fake_mesh: Any) -> None:
    spec = fake_mesh.spec("predictor", models=("broken", "iris"))

    async with fake_mesh.supervised(spec):
        await fake_mesh.record.until_ready()

    assert fake_mesh.record.of(ModelFailed) == [ModelFailed("broken", "its file is truncated")]
    assert fake_mesh.record.of(ModelServing) == [ModelServing("iris")]


async def test_a_service_that_ignores_sigterm_is_killed_in_time(fake_mesh: Any) -> None:
    async with fake_mesh.supervised(fake_mesh.spec("gateway", behaviour="deaf"), stop_s=0.3):
        await fake_mesh.record.until_ready()

    assert fake_mesh.record.of(ServiceKilled) == [ServiceKilled("gateway", 0.3)]
    (started,) = fake_mesh.record.of(ServiceStarted)
    assert not is_alive(started.pid)


async def test_a_second_request_to_stop_kills_at_once(fake_mesh: Any) -> None:
    async with fake_mesh.supervised(fake_mesh.spec("gateway", behaviour="deaf"), stop_s=60) as supervisor:
        await fake_mesh.record.until_ready()
        supervisor.request_stop()

    (started,) = fake_mesh.record.of(ServiceStarted)
    assert not is_alive(started.pid)


async def test_one_ctrl_c_that_comes_as_two_signals_stops_in_order(fake_mesh: Any) -> None:
    spec = fake_mesh.spec("gateway")

    async with fake_mesh.supervised(spec, impatient_s=60) as supervisor:
        await fake_mesh.record.until_ready()
        supervisor.request_stop()

    assert '"stopped"' in spec.log_path.read_text()


async def test_a_stop_during_the_start_ends_what_was_started(fake_mesh: Any) -> None:
    async with fake_mesh.supervised(fake_mesh.spec("registry", behaviour="mute"), fake_mesh.spec("gateway")):
        await fake_mesh.record.until(lambda: bool(fake_mesh.record.of(ServiceStarted)))

    assert not any(is_alive(event.pid) for event in fake_mesh.record.of(ServiceStarted))


async def test_the_run_file_tells_where_everything_is(fake_mesh: Any) -> None:
    spec = fake_mesh.spec("predictor", models=("iris",))

    with fake_mesh.state.locked():
        async with fake_mesh.supervised(spec):
            await fake_mesh.record.until_ready()
            info = await eventually_serving(fake_mesh)

    assert info.services[0].grpc_address == spec.grpc_address
    assert info.services[0].pid == fake_mesh.record.of(ServiceStarted)[0].pid
    assert [deployment.name for deployment in info.deployments] == ["iris"]


async def eventually_serving(fake_mesh: Any) -> RunInfo:
    async with asyncio.timeout(10):
        while True:
            info = read_run_info(fake_mesh.state)
            if info is not None and info.services[0].state == "serving":
                return info
            await asyncio.sleep(0.01)

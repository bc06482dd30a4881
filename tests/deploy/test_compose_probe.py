"""The probe says by its exit status what a health service answers."""

from __future__ import annotations

import asyncio
import socket

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import aio as health_aio

from deploy.compose.probe import failure, main
from mesh.testing import serve_on_free_port

Status = health_pb2.HealthCheckResponse.ServingStatus


async def test_serving_server_and_models_are_no_failure() -> None:
    async with serve_on_free_port((health_pb2_grpc.add_HealthServicer_to_server, await _health())) as address:
        reason = await asyncio.to_thread(failure, address, ("", "iris"), 5.0)

    assert reason is None


async def test_model_that_is_not_loaded_fails_by_name() -> None:
    async with serve_on_free_port((health_pb2_grpc.add_HealthServicer_to_server, await _health())) as address:
        reason = await asyncio.to_thread(failure, address, ("", "iris", "smollm2"), 5.0)

    assert reason == f"smollm2 at {address}: NOT_SERVING"


async def test_name_that_the_server_does_not_know_fails() -> None:
    async with serve_on_free_port((health_pb2_grpc.add_HealthServicer_to_server, await _health())) as address:
        reason = await asyncio.to_thread(failure, address, ("nobody",), 5.0)

    assert reason is not None
    assert reason.startswith(f"nobody at {address}: NOT_FOUND")


async def test_exit_status_and_one_line_follow(capsys: pytest.CaptureFixture[str]) -> None:
    async with serve_on_free_port((health_pb2_grpc.add_HealthServicer_to_server, await _health())) as address:
        well = await asyncio.to_thread(main, [address, "iris"])
        ill = await asyncio.to_thread(main, [address, "smollm2"])

    assert (well, ill) == (0, 1)
    assert capsys.readouterr().err == f"smollm2 at {address}: NOT_SERVING\n"


def test_nobody_listening_is_a_failure_and_not_a_crash() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"

    reason = failure(address, ("",), 5.0)

    assert reason is not None
    assert reason.startswith(f"server at {address}: UNAVAILABLE")


async def _health() -> health_aio.HealthServicer:
    """Serves "" and iris; knows smollm2, which is not loaded."""
    health = health_aio.HealthServicer()
    await health.set("iris", Status.SERVING)
    await health.set("smollm2", Status.NOT_SERVING)
    return health

"""gRPC health of each deployment follows the view."""

from __future__ import annotations

import asyncio
from typing import Any

from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway.dataplane import Dataplane
from gateway.deployment_health import DeploymentHealth
from mesh.pool import EndpointPool
from mesh.v1.registry_pb2 import SERVICE_KIND_PREDICTOR, Deployment, Replica, ServedModel
from mesh.view import MeshView
from tests.gateway.conftest import Door


def view(*names: str, ready: bool = True) -> MeshView:
    models = [ServedModel(name=name, version="1", ready=ready) for name in names]
    replica = Replica(id="p", kind=SERVICE_KIND_PREDICTOR, address="127.0.0.1:1", models=models)
    return MeshView(deployments={name: Deployment(name=name) for name in names}, replicas={"p": replica})


async def test_health_follows_the_view() -> None:
    current = [view("a", "b", ready=False)]
    told: asyncio.Queue[tuple[str, bool]] = asyncio.Queue()

    async def set_health(name: str, serving: bool) -> None:
        await told.put((name, serving))

    pool = EndpointPool(lambda: current[0])
    health = DeploymentHealth(Dataplane(pool, lambda: current[0], request_timeout_s=5), set_health)

    async def next_two() -> set[tuple[str, bool]]:
        async with asyncio.timeout(5):
            return {await told.get(), await told.get()}

    health.start()
    assert await next_two() == {("a", False), ("b", False)}
    current[0] = view("a", "b")
    health.notice(current[0])
    assert await next_two() == {("a", True), ("b", True)}
    current[0] = view("b", "c")
    health.notice(current[0])
    assert await next_two() == {("a", False), ("c", True)}
    await health.close()
    await pool.close()


async def test_gateway_serves_the_health_of_deployments(door: Door) -> None:
    stub: Any = health_pb2_grpc.HealthStub(door.channel)

    async def status(name: str) -> int:
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=5)
        return int(answer.status)

    serving = health_pb2.HealthCheckResponse.SERVING
    async with asyncio.timeout(5):
        await anext(aiter(stub.Watch(health_pb2.HealthCheckRequest(service="echo"), timeout=5)))
    assert [await status(name) for name in ("", "inference.GRPCInferenceService", "echo")] == [serving] * 3
    assert await status("absent") == health_pb2.HealthCheckResponse.NOT_SERVING

"""The mesh under test: a registry, a gateway, transformers and predictors, each a process that can be harmed.

Who is healthy is asked, never assumed from the time that passed: of the replica itself, and of the registry.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import grpc
import grpc.aio
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bench.chaos.member import Member
from bench.chaos.scenario import Scenario
from bench.chaos.waiting import until
from bench.server_process import CannotStart, tail
from deploy.local.commands import GRPC_POLLER, ONE_THREAD
from mesh.channel import open_channel
from mesh.discovery import Discovery
from mesh.oip import open_inference_pb2 as oip
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub

_ASK_S = 2.0
_STOP_S = 40.0
_LAST_MOMENTS_S = 5.0


class MeshUnderTest:
    """Use `running_mesh`. `http_url` and `grpc_address` are the gateway's."""

    def __init__(self, scenario: Scenario, folder: Path) -> None:
        self.scenario = scenario
        self.http_url = ""
        folder.mkdir(parents=True, exist_ok=True)
        deployments = folder / "deployments.yaml"
        scenario.write_deployments(deployments)
        self._folder = folder
        self._flags: tuple[str, ...] = (
            *("--drain-s", str(scenario.drain_s), "--grace-s", str(scenario.grace_s)),
            *("--host", "127.0.0.1", "--log-level", "info"),
        )
        self.registry = self._member("registry", "registry", "--deployments", str(deployments))
        self._flags += ("--registry", self.registry.address)
        self.gateway = self._member("gateway", "gateway", "--http-port", "0")
        self.transformers = tuple(
            self._member(f"transformer-{number}", "transformer") for number in range(scenario.num_transformers)
        )
        self.predictors = tuple(
            self._member(f"predictor-{number}", scenario.predictor_module, "--deployments", str(deployments))
            for number in range(scenario.num_predictors)
        )
        self.discovery = Discovery(
            registry=self.registry.address, endpoints=None, state_dir=folder / "discovery", first_view_s=30.0
        )

    @property
    def grpc_address(self) -> str:
        return self.gateway.address

    @property
    def members(self) -> tuple[Member, ...]:
        return (self.gateway, *self.transformers, *self.predictors, self.registry)

    def replica_ids(self) -> frozenset[str]:
        """Of all replicas that the registry ever told of and that have not left."""
        return frozenset(self.discovery.view.replicas)

    async def start(self) -> None:
        """Start everything and wait until all of it serves. Raises CannotStart."""
        for member in (self.registry, *self.predictors, *self.transformers, self.gateway):
            member.start()
        await self.until_registry_serves()
        await self.discovery.start()
        addresses = await self.gateway.until_listening(self.scenario.start_s)
        self.http_url = f"http://{addresses['http_address']}"
        await asyncio.gather(*(self.until_serving(each) for each in (*self.transformers, *self.predictors)))
        await self._until("the gateway", lambda: _has_models(self.gateway.address, self.scenario.models))

    async def until_serving(self, member: Member, former_ids: frozenset[str] = frozenset()) -> None:
        """Wait until `member` has all its models and the registry says so, of a replica that is not in `former_ids`.

        former_ids: those known when its last life ended, which may still be listed. Raises CannotStart.
        """
        await member.until_listening(self.scenario.start_s)
        models = self.scenario.models if member in self.predictors else ()

        async def serves() -> bool:
            if not member.is_running:
                raise CannotStart(f"{member.name} ended before it served: {tail(member.log)}")
            return self._is_announced(member, former_ids) and await _has_models(member.address, models)

        await self._until(member.name, serves)

    async def until_registry_serves(self) -> None:
        """Wait until the registry answers. Raises CannotStart."""
        await self.registry.until_listening(self.scenario.start_s)
        await self._until("the registry", lambda: _is_healthy(self.registry.address))

    async def stop(self) -> list[str]:
        """End everything; gives the command lines of what outlived its service, and kills it."""
        await self.discovery.close()
        for member in self.members:
            if member.is_running:
                for process in member.survivors():
                    with suppress(psutil.Error):
                        process.resume()  # what is frozen hears no SIGTERM
                member.signal(signal.SIGTERM)
        await asyncio.gather(*(member.until_ended(_STOP_S) for member in self.members))

        async def is_empty() -> bool:
            return not any(member.survivors() for member in self.members)

        await until(is_empty, _LAST_MOMENTS_S)
        return self.kill()

    def kill(self) -> list[str]:
        """End everything now; gives the command lines of what was there."""
        left = [process for member in self.members for process in member.survivors()]
        commands = []
        for process in left:
            with suppress(psutil.Error):
                commands.append(" ".join(process.cmdline())[:200])
                process.kill()
        psutil.wait_procs(left, timeout=_LAST_MOMENTS_S)
        return commands

    def _is_announced(self, member: Member, former_ids: frozenset[str]) -> bool:
        return any(
            replica.address == member.address
            and replica.id not in former_ids
            and all(model.ready for model in replica.models)
            for replica in self.discovery.view.replicas.values()
        )

    async def _until(self, what: str, condition: Callable[[], Awaitable[bool]]) -> None:
        if not await until(condition, self.scenario.start_s):
            raise CannotStart(f"{what} does not serve after {self.scenario.start_s:g} s")

    def _member(self, name: str, module: str, *flags: str) -> Member:
        environment = {"PYTHONUNBUFFERED": "1", **GRPC_POLLER, **ONE_THREAD}
        return Member(name, module, (*self._flags, *flags), self._folder / name, environment)


@asynccontextmanager
async def running_mesh(scenario: Scenario, folder: Path) -> AsyncIterator[MeshUnderTest]:
    """A mesh that serves; nothing of it is left afterwards. Raises CannotStart."""
    mesh = MeshUnderTest(scenario, folder)
    try:
        await mesh.start()
        yield mesh
    finally:
        mesh.kill()


async def _has_models(address: str, models: Sequence[str]) -> bool:
    """Whether the server says of each model that it is ready; no answer means no."""
    async with open_channel(address) as channel:
        stub = GRPCInferenceServiceStub(channel)
        try:
            for model in models:
                if not (await stub.ModelReady(oip.ModelReadyRequest(name=model), timeout=_ASK_S)).ready:
                    return False
        except grpc.aio.AioRpcError:
            return False
    return True


async def _is_healthy(address: str) -> bool:
    async with open_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        try:
            response = await stub.Check(health_pb2.HealthCheckRequest(), timeout=_ASK_S)
        except grpc.aio.AioRpcError:
            return False
    return bool(response.status == health_pb2.HealthCheckResponse.SERVING)

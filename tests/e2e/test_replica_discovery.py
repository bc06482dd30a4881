"""A registry and a gateway as processes, and replicas that come, drain and stay while the registry is gone."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest

from bench.server_process import free_port
from mesh.announce import Announcer
from mesh.channel import open_channel
from mesh.oip.open_inference_pb2 import ModelInferRequest, ModelInferResponse
from mesh.oip.open_inference_pb2_grpc import (
    GRPCInferenceServiceStub,
    add_GRPCInferenceServiceServicer_to_server,
)
from mesh.testing import eventually, serve_on_free_port
from mesh.v1.registry_pb2 import SERVICE_KIND_PREDICTOR, Replica, ServedModel, WatchRequest
from mesh.v1.registry_pb2_grpc import RegistryServiceStub
from mesh.view import MeshView

START_S = 90.0
LEASE_S = 1.0
DEPLOYMENTS = 'deployments: [{name: iris, predictor: {model_format: sklearn, storage_uri: "file:///m"}}]\n'


class Predictor:
    """Answers at once, and counts."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.calls = 0

    async def ModelInfer(self, request: ModelInferRequest, _context: object) -> ModelInferResponse:
        self.calls += 1
        return ModelInferResponse(model_name=request.model_name, id=self.name)

    async def wait_for_calls(self, count: int) -> None:
        await eventually(lambda: self.calls >= count, START_S)

    def __getattr__(self, rpc: str) -> None:
        return None


class Service:
    """A service as a process, which can be killed and started again on the same port and state."""

    def __init__(self, module: str, folder: Path, *flags: str) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        self.folder = folder / module
        self._ready_file = self.folder / "ready.json"
        self._command = (
            *(sys.executable, "-m", module, "--grpc-port", self.address.rpartition(":")[2], "--metrics-port", "0"),
            *("--state-dir", str(self.folder), "--ready-file", str(self._ready_file), "--drain-s", "0", *flags),
        )
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._ready_file.unlink(missing_ok=True)
        self._process = await asyncio.create_subprocess_exec(
            *self._command, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        await eventually(self._ready_file.exists, START_S)

    async def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            await self._process.wait()
            self._process = None

    def saved_replicas(self) -> set[str]:
        """Of the view that it has written to disk."""
        try:
            saved = json.loads((self.folder / "mesh-view.json").read_text())
        except FileNotFoundError:
            return set()
        return {entry["id"] for entry in saved["snapshot"].get("replicas", [])}


class Wire:
    """A way to an address that can be cut."""

    def __init__(self, address: str) -> None:
        self._host, _, self._port = address.partition(":")
        self._server: asyncio.Server | None = None
        self._open: set[asyncio.StreamWriter] = set()
        self.address = f"127.0.0.1:{free_port()}"

    async def mend(self) -> None:
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", int(self.address.rpartition(":")[2]))

    async def cut(self) -> None:
        if self._server is not None:
            self._server.close()
            for writer in list(self._open):
                writer.close()
            await self._server.wait_closed()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(self._host, self._port)
        except OSError:
            writer.close()
            return
        ways = (reader, far_writer), (far_reader, writer)
        self._open.update((writer, far_writer))
        await asyncio.gather(*(self._copy(*way) for way in ways), return_exceptions=True)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(1 << 16):
                writer.write(data)
        finally:
            writer.close()
            self._open.discard(writer)


class Mesh:
    """The two services, and what clients of the gateway have seen."""

    def __init__(self, folder: Path) -> None:
        deployments = folder / "mesh.yaml"
        deployments.write_text(DEPLOYMENTS)
        self.registry = Service("registry", folder, "--deployments", str(deployments))
        self.gateway = Service("gateway", folder, "--http-port", "0", "--registry", self.registry.address)
        self.answers = 0
        self.failures: list[str] = []

    async def start(self) -> None:
        await asyncio.gather(self.registry.start(), self.gateway.start())
        await eventually(lambda: (self.gateway.folder / "mesh-view.json").exists(), START_S)

    async def close(self) -> None:
        await asyncio.gather(self.registry.kill(), self.gateway.kill())

    @asynccontextmanager
    async def replica(self, name: str, registry: str = "") -> AsyncIterator[tuple[Predictor, Announcer]]:
        """A predictor that is announced once its announcer is started. registry: another way to it."""
        predictor = Predictor(name)
        async with serve_on_free_port((add_GRPCInferenceServiceServicer_to_server, predictor)) as address:
            models = [ServedModel(name="iris", version="1", ready=True)]
            replica = Replica(id=name, kind=SERVICE_KIND_PREDICTOR, address=address, models=models)
            announcer = Announcer(registry or self.registry.address, replica, LEASE_S)
            try:
                yield predictor, announcer
            finally:
                await announcer.withdraw()

    async def registry_hears_of(self, *names: str) -> set[str]:
        """All replicas that it knows, once these are among them."""
        view = MeshView()
        async with asyncio.timeout(START_S), open_channel(self.registry.address) as channel:
            async for message in RegistryServiceStub(channel).Watch(WatchRequest()):
                is_whole = message.HasField("snapshot")
                view = view.with_snapshot(message.snapshot) if is_whole else view.with_event(message)
                if set(names) <= set(view.replicas):
                    break
        return set(view.replicas)

    async def ask(self, channel: grpc.aio.Channel) -> None:
        try:
            await GRPCInferenceServiceStub(channel).ModelInfer(ModelInferRequest(model_name="iris"), timeout=30)
            self.answers += 1
        except grpc.aio.AioRpcError as error:
            self.failures.append(error.details() or error.code().name)

    @asynccontextmanager
    async def load(self, concurrency: int = 4) -> AsyncIterator[None]:
        """Requests, `concurrency` at a time, inside the block."""
        async with open_channel(self.gateway.address) as channel:
            is_over = False

            async def client() -> None:
                while not is_over:
                    await self.ask(channel)
                    await asyncio.sleep(0.002)

            clients = [asyncio.create_task(client()) for _ in range(concurrency)]
            try:
                yield
            finally:
                is_over = True
                await asyncio.gather(*clients)

    async def answered(self, count: int) -> None:
        """Wait for so many more answers."""
        enough = self.answers + count
        await eventually(lambda: self.answers >= enough or bool(self.failures), START_S)


@pytest.fixture
async def mesh(tmp_path: Path) -> AsyncIterator[Mesh]:
    running = Mesh(tmp_path)
    try:
        await running.start()
        yield running
    finally:
        await running.close()


@asynccontextmanager
async def announced(mesh: Mesh, *names: str, registry: str = "") -> AsyncIterator[list[Predictor]]:
    """Replicas that the gateway knows. registry: the way that they go to it."""
    async with AsyncExitStack() as stack:
        predictors = []
        for name in names:
            predictor, announcer = await stack.enter_async_context(mesh.replica(name, registry))
            await announcer.start()
            predictors.append(predictor)
        await eventually(lambda: set(names) <= mesh.gateway.saved_replicas(), START_S)
        yield predictors


async def test_new_replica_takes_traffic_within_a_second(mesh: Mesh) -> None:
    took_s = []
    async with announced(mesh, "first"), mesh.load():
        for name in ("second", "third", "fourth"):
            async with mesh.replica(name) as (predictor, announcer):
                began = time.monotonic()
                await announcer.start()
                await predictor.wait_for_calls(1)
                took_s.append(time.monotonic() - began)

    assert mesh.failures == []
    # The quickest of three: a machine that others use as well may be late now and then.
    assert min(took_s) < 1.0, took_s


async def test_draining_replica_gets_nothing_more_and_no_request_fails(mesh: Mesh) -> None:
    async with announced(mesh, "stays"), mesh.replica("drains") as (predictor, announcer), mesh.load():
        await announcer.start()
        await predictor.wait_for_calls(20)

        await announcer.withdraw()
        await eventually(lambda: mesh.gateway.saved_replicas() == {"stays"}, START_S)
        calls = predictor.calls
        await mesh.answered(200)

        assert predictor.calls == calls
    assert mesh.failures == []


async def test_registry_gone_for_longer_than_the_leases_loses_no_replica_and_no_request(mesh: Mesh) -> None:
    wire = Wire(mesh.registry.address)
    await wire.mend()
    async with announced(mesh, "a", "b", registry=wire.address) as predictors, mesh.load():

        async def both_take_traffic() -> None:
            before = [predictor.calls for predictor in predictors]
            await mesh.answered(100)
            assert all(predictor.calls > calls for predictor, calls in zip(predictors, before, strict=True))

        await mesh.registry.kill()
        await wire.cut()
        gone_at = time.monotonic()
        await eventually(lambda: time.monotonic() - gone_at > 2 * LEASE_S, START_S)
        await both_take_traffic()

        # The gateway follows a registry that knows nothing of the two, and they cannot tell it yet.
        await mesh.registry.start()
        async with mesh.replica("c") as (newcomer, announcer):
            await announcer.start()
            await newcomer.wait_for_calls(1)
            assert await mesh.registry_hears_of("c") == {"c"}
            await both_take_traffic()

            await wire.mend()
            assert await mesh.registry_hears_of("a", "b") == {"a", "b", "c"}
        await eventually(lambda: mesh.gateway.saved_replicas() == {"a", "b"}, START_S)
        await both_take_traffic()
    await wire.cut()
    assert mesh.failures == []


async def test_gateway_that_starts_without_its_registry_serves_what_it_knew(mesh: Mesh) -> None:
    async with announced(mesh, "a", "b") as predictors:
        await mesh.registry.kill()
        await mesh.gateway.kill()
        await mesh.gateway.start()
        async with mesh.load():
            await mesh.answered(50)
            assert all(predictor.calls for predictor in predictors)

            await mesh.registry.start()
            async with mesh.replica("c") as (newcomer, announcer):
                await announcer.start()
                await newcomer.wait_for_calls(1)
                assert mesh.failures == []

"""Replicas in processes of their own, killed while requests run: nothing fails that had another replica to go to."""

from __future__ import annotations

import asyncio
import random
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from mesh.errors import Unavailable
from mesh.oip.open_inference_pb2 import ServerLiveRequest, ServerMetadataRequest
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from mesh.pool import Channel, EndpointPool
from mesh.v1.registry_pb2 import SERVICE_KIND_PREDICTOR, Deployment, Replica, ServedModel
from mesh.view import MeshView

PREDICTOR = SERVICE_KIND_PREDICTOR

_REPLICA = """
import asyncio, sys
import grpc.aio
from mesh.oip.open_inference_pb2 import ServerLiveResponse, ServerMetadataResponse
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceServicer, add_GRPCInferenceServiceServicer_to_server

class Replica(GRPCInferenceServiceServicer):
    async def ServerLive(self, request, context):
        await asyncio.sleep(0.02)
        return ServerLiveResponse(live=True)
    async def ServerMetadata(self, request, context):
        return ServerMetadataResponse(name=sys.argv[2])

async def main():
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    add_GRPCInferenceServiceServicer_to_server(Replica(), server)
    print(server.add_insecure_port("127.0.0.1:" + sys.argv[1]), flush=True)
    await server.start()
    await server.wait_for_termination()

asyncio.run(main())
"""


class Process:
    def __init__(self, process: asyncio.subprocess.Process, address: str) -> None:
        self.address = address
        self._process = process

    async def kill(self) -> None:
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()


@asynccontextmanager
async def replica_process(name: str, port: int = 0) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _REPLICA, str(port), name, stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    running = Process(process, f"127.0.0.1:{int(await process.stdout.readline())}")
    try:
        yield running
    finally:
        await running.kill()


def view_of(**addresses: str) -> MeshView:
    models = [ServedModel(name="iris", version="1", ready=True)]
    replicas = {
        id_: Replica(id=id_, kind=PREDICTOR, address=address, models=models) for id_, address in addresses.items()
    }
    return MeshView(deployments={"iris": Deployment(name="iris")}, replicas=replicas)


async def live(channel: Channel) -> bool:
    return (await GRPCInferenceServiceStub(channel).ServerLive(ServerLiveRequest(), timeout=10)).live


async def name_of(channel: Channel) -> str:
    return (await GRPCInferenceServiceStub(channel).ServerMetadata(ServerMetadataRequest(), timeout=10)).name


async def test_kill_of_one_of_three_fails_no_request() -> None:
    async with AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(replica_process(f"p{number}")) for number in range(3)]
        view = view_of(**{f"p{number}": process.address for number, process in enumerate(processes)})
        pool = EndpointPool(lambda: view, rng=random.Random(3))
        stack.push_async_callback(pool.close)

        async def client() -> list[bool]:
            return [await pool.unary(PREDICTOR, "iris", live) for _ in range(20)]

        clients = [asyncio.create_task(client()) for _ in range(40)]
        await asyncio.sleep(0.1)
        await processes[0].kill()

        assert all(all(answers) for answers in await asyncio.gather(*clients))


async def test_killed_replica_that_restarts_at_its_address_answers_as_soon_as_it_is_known() -> None:
    async with replica_process("first") as first:
        view = view_of(first=first.address)
        pool = EndpointPool(lambda: view, rng=random.Random(3))
        assert await pool.unary(PREDICTOR, "iris", name_of) == "first"
        await first.kill()
        failed = 0
        for _ in range(20):
            try:
                await pool.unary(PREDICTOR, "iris", name_of)
            except Unavailable:
                failed += 1
        assert failed == 20

        async with replica_process("second", int(first.address.rpartition(":")[2])) as second:
            view = view_of(second=second.address)
            async with asyncio.timeout(5):
                assert await pool.unary(PREDICTOR, "iris", name_of) == "second"
        await pool.close()

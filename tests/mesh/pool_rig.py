"""Real servers on free ports that answer as a test says, and a pool over them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import grpc.aio

from mesh.oip.open_inference_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
    ServerLiveRequest,
    ServerLiveResponse,
)
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub, add_GRPCInferenceServiceServicer_to_server
from mesh.pool import Channel, EndpointPool
from mesh.testing import serve_on_free_port
from mesh.v1.registry_pb2 import (
    SERVICE_KIND_PREDICTOR,
    Deployment,
    Replica,
    ServedModel,
    TransformerSpec,
)
from mesh.view import MeshView

PREDICTOR = SERVICE_KIND_PREDICTOR


class Answering:
    """An OIP server in miniature: counts its calls and does what `behaviour` says."""

    def __init__(self, name: str = "a") -> None:
        self.name = name
        self.calls = 0
        self.cancelled = asyncio.Event()
        self.held: asyncio.Event | None = None
        self.error: Exception | None = None
        self.messages_before_error = 0

    async def ServerLive(self, request: ServerLiveRequest, _context: object) -> ServerLiveResponse:
        self.calls += 1
        if self.held is not None:
            await self.held.wait()
        if self.error is not None:
            raise self.error
        return ServerLiveResponse(live=True)

    async def ModelStreamInfer(
        self, requests: AsyncIterator[ModelInferRequest], _context: object
    ) -> AsyncIterator[ModelStreamInferResponse]:
        self.calls += 1
        try:
            for number in range(3):
                if self.error is not None and number == self.messages_before_error:
                    raise self.error
                yield ModelStreamInferResponse(infer_response=ModelInferResponse(model_name=self.name, id=str(number)))
                if self.held is not None:
                    await self.held.wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    def __getattr__(self, rpc: str) -> None:
        return None


@asynccontextmanager
async def serving(*servicers: Answering) -> AsyncIterator[list[str]]:
    if not servicers:
        yield []
        return
    async with (
        serve_on_free_port((add_GRPCInferenceServiceServicer_to_server, servicers[0])) as address,
        serving(*servicers[1:]) as addresses,
    ):
        yield [address, *addresses]


def predictor(id_: str, address: str, *, ready: bool = True) -> Replica:
    return Replica(id=id_, kind=PREDICTOR, address=address, models=[ServedModel(name="iris", version="1", ready=ready)])


def view_of(*replicas: Replica) -> MeshView:
    deployments = {
        "iris": Deployment(name="iris"),
        "chat": Deployment(name="chat", transformer=TransformerSpec(steps=["chat_template"])),
    }
    return MeshView(deployments=deployments, replicas={replica.id: replica for replica in replicas})


class Source:
    """A view that tests change."""

    def __init__(self, *replicas: Replica) -> None:
        self.view = view_of(*replicas)

    def __call__(self) -> MeshView:
        return self.view


async def live(channel: Channel) -> ServerLiveResponse:
    return await GRPCInferenceServiceStub(channel).ServerLive(ServerLiveRequest(), timeout=5)


def stream(channel: Channel) -> grpc.aio.StreamStreamCall[ModelInferRequest, ModelStreamInferResponse]:
    return GRPCInferenceServiceStub(channel).ModelStreamInfer(iter([ModelInferRequest(id="1")]))


@asynccontextmanager
async def pool_over(source: Source, **options: object) -> AsyncIterator[EndpointPool]:
    pool = EndpointPool(source, rng=random.Random(7), **options)
    try:
        yield pool
    finally:
        await pool.close()


def free_port_address() -> str:
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{listener.getsockname()[1]}"

"""The pool against real servers on free ports: choice, failover, accounting, and replicas that come and go."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager

import grpc
import grpc.aio
import pytest
from prometheus_client import CollectorRegistry

from mesh.errors import InvalidInput, ModelNotFound, ModelNotReady, NotFound, Unavailable
from mesh.oip.open_inference_pb2 import (
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
    ServerLiveRequest,
    ServerLiveResponse,
)
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub, add_GRPCInferenceServiceServicer_to_server
from mesh.pool import Channel, EndpointPool
from mesh.retry import RetryBudget
from mesh.testing import eventually, serve_on_free_port
from mesh.v1.registry_pb2 import (
    SERVICE_KIND_EXPLAINER,
    SERVICE_KIND_PREDICTOR,
    SERVICE_KIND_TRANSFORMER,
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


async def test_unknown_deployment_lists_what_is_deployed() -> None:
    async with pool_over(Source()) as pool:
        with pytest.raises(ModelNotFound, match="model 'x' is not deployed; deployed: chat, iris"):
            pool.deployment("x")


async def test_first_hop_is_the_transformer_where_there_is_one() -> None:
    async with pool_over(Source()) as pool:
        assert pool.first_hop("chat") == SERVICE_KIND_TRANSFORMER
        assert pool.first_hop("iris") == PREDICTOR


def test_unknown_policy_fails_at_construction() -> None:
    with pytest.raises(NotFound, match="least_loaded"):
        EndpointPool(Source(), policy="best")


async def test_no_replica_is_unavailable_with_a_sentence() -> None:
    async with pool_over(Source()) as pool:
        with pytest.raises(Unavailable, match="no ready predictor for 'iris'; 0 known"):
            await pool.unary(PREDICTOR, "iris", live)


async def test_loading_model_is_not_ready() -> None:
    async with pool_over(Source(predictor("a", "127.0.0.1:1", ready=False))) as pool:
        with pytest.raises(ModelNotReady, match="'iris' is not ready"):
            await pool.unary(PREDICTOR, "iris", live)


async def test_explainers_serve_every_deployment() -> None:
    servicer = Answering()
    async with serving(servicer) as [address]:
        source = Source(Replica(id="e", kind=SERVICE_KIND_EXPLAINER, address=address))
        async with pool_over(source) as pool:
            assert (await pool.unary(SERVICE_KIND_EXPLAINER, "iris", live)).live


async def test_refused_connection_goes_to_another_replica_and_ejects_the_first() -> None:
    servicer = Answering()
    metrics = CollectorRegistry()
    async with serving(servicer) as [address]:
        source = Source(predictor("dead", free_port_address()), predictor("alive", address))
        async with pool_over(source, metrics_registry=metrics) as pool:
            for _ in range(50):
                assert (await pool.unary(PREDICTOR, "iris", live)).live

    assert servicer.calls == 50
    ok = metrics.get_sample_value("meshserve_next_hop_attempts_total", {"service": "predictor", "outcome": "ok"})
    assert ok == 50
    for counted in ("retries", "ejections"):
        assert metrics.get_sample_value(f"meshserve_next_hop_{counted}_total", {"service": "predictor"}) == 1


async def test_single_unreachable_replica_fails_fast_with_unavailable() -> None:
    async with pool_over(Source(predictor("dead", free_port_address()))) as pool:
        async with asyncio.timeout(5):
            with pytest.raises(Unavailable, match="the predictor for 'iris' cannot be reached"):
                await pool.unary(PREDICTOR, "iris", live)


async def test_answer_that_blames_the_request_is_not_retried() -> None:
    servicers = Answering(), Answering()
    for servicer in servicers:
        servicer.error = InvalidInput("shape is wrong")
    async with serving(*servicers) as addresses:
        async with pool_over(Source(*(predictor(a, a) for a in addresses))) as pool:
            with pytest.raises(InvalidInput, match="shape is wrong"):
                await pool.unary(PREDICTOR, "iris", live)

    assert sum(servicer.calls for servicer in servicers) == 1


async def test_unavailable_answer_is_retried_but_does_not_eject() -> None:
    loading, ready = Answering(), Answering()
    loading.error = ModelNotReady("model 'iris' is loading")
    async with serving(loading, ready) as [first, second]:
        source = Source(predictor("loading", first), predictor("ready", second))
        async with pool_over(source) as pool:
            for _ in range(40):
                await pool.unary(PREDICTOR, "iris", live)

    assert loading.calls > 5
    assert ready.calls == 40


async def test_without_budget_the_failure_comes_out() -> None:
    servicers = Answering(), Answering()
    for servicer in servicers:
        servicer.error = ModelNotReady("model 'iris' is loading")
    async with serving(*servicers) as addresses:
        budget = RetryBudget(ratio=0, floor_per_s=0, burst=0)
        async with pool_over(Source(*(predictor(a, a) for a in addresses)), budget=budget) as pool:
            with pytest.raises(Unavailable, match="is loading"):
                await pool.unary(PREDICTOR, "iris", live)

    assert sum(servicer.calls for servicer in servicers) == 1


async def test_burst_spreads_before_the_first_answer() -> None:
    servicers = Answering(), Answering(), Answering()
    gate = asyncio.Event()
    for servicer in servicers:
        servicer.held = gate
    async with serving(*servicers) as addresses, pool_over(Source(*(predictor(a, a) for a in addresses))) as pool:
        calls = [asyncio.create_task(pool.unary(PREDICTOR, "iris", live)) for _ in range(30)]
        await eventually(lambda: sum(servicer.calls for servicer in servicers) == 30)
        gate.set()
        await asyncio.gather(*calls)

    assert max(servicer.calls for servicer in servicers) <= 13


async def test_stream_passes_all_messages() -> None:
    async with serving(Answering()) as [address], pool_over(Source(predictor("a", address))) as pool:
        ids = [message.infer_response.id async for message in pool.stream(PREDICTOR, "iris", stream)]

    assert ids == ["0", "1", "2"]


async def test_stream_is_retried_before_the_first_message_only() -> None:
    broken, whole = Answering("broken"), Answering("whole")
    broken.error = Unavailable("going away")
    async with serving(broken, whole) as [first, second]:
        source = Source(predictor("broken", first), predictor("whole", second))
        async with pool_over(source) as pool:
            for _ in range(20):
                messages = [m.infer_response async for m in pool.stream(PREDICTOR, "iris", stream)]
                assert [m.model_name for m in messages] == ["whole"] * 3
            assert broken.calls > 0

            broken.messages_before_error = 1
            whole.error, whole.messages_before_error = Unavailable("going away"), 1
            calls = broken.calls + whole.calls
            with pytest.raises(Unavailable, match="going away"):
                async for _ in pool.stream(PREDICTOR, "iris", stream):
                    pass

    assert broken.calls + whole.calls == calls + 1


async def test_leaving_a_stream_early_cancels_it_at_the_replica_and_releases_it() -> None:
    servicer = Answering()
    servicer.held = asyncio.Event()
    async with serving(servicer) as [address], pool_over(Source(predictor("a", address))) as pool:
        async with aclosing(pool.stream(PREDICTOR, "iris", stream)) as messages:
            async for _ in messages:
                break
        async with asyncio.timeout(5):
            await servicer.cancelled.wait()

        [endpoint] = pool._endpoints.serving(PREDICTOR, "iris")
        assert endpoint.in_flight == 0


async def test_cancelled_call_is_released() -> None:
    servicer = Answering()
    servicer.held = asyncio.Event()
    async with serving(servicer) as [address], pool_over(Source(predictor("a", address))) as pool:
        call = asyncio.create_task(pool.unary(PREDICTOR, "iris", live))
        await eventually(lambda: servicer.calls == 1)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call

        [endpoint] = pool._endpoints.serving(PREDICTOR, "iris")
        assert endpoint.in_flight == 0


async def test_replica_that_leaves_finishes_what_it_has_and_gets_nothing_new() -> None:
    old, new = Answering(), Answering()
    old.held = asyncio.Event()
    async with serving(old, new) as [first, second]:
        source = Source(predictor("old", first))
        async with pool_over(source) as pool:
            running = asyncio.create_task(pool.unary(PREDICTOR, "iris", live))
            await eventually(lambda: old.calls == 1)
            source.view = view_of(predictor("new", second))
            await pool.unary(PREDICTOR, "iris", live)
            old.held.set()

            assert (await running).live
            assert (old.calls, new.calls) == (1, 1)


async def test_replica_that_restarts_with_a_new_id_at_its_old_address_is_used_at_once() -> None:
    async with serving(Answering()) as [address]:
        source = Source(predictor("first", address))
        async with pool_over(source) as pool:
            await pool.unary(PREDICTOR, "iris", live)
            source.view = view_of()
    async with pool_over(source) as pool:
        source.view = view_of(predictor("first", address))
        with pytest.raises(Unavailable):
            await pool.unary(PREDICTOR, "iris", live)
        server = grpc.aio.server()
        add_GRPCInferenceServiceServicer_to_server(Answering(), server)
        server.add_insecure_port(address)
        await server.start()
        source.view = view_of(predictor("second", address))
        assert (await pool.unary(PREDICTOR, "iris", live)).live
        await server.stop(None)


async def test_static_replica_is_used_again_soon_after_its_return() -> None:
    address = free_port_address()
    async with pool_over(Source(predictor("static", address))) as pool:
        for _ in range(30):
            with pytest.raises(Unavailable):
                await pool.unary(PREDICTOR, "iris", live)
        server = grpc.aio.server()
        add_GRPCInferenceServiceServicer_to_server(Answering(), server)
        server.add_insecure_port(address)
        await server.start()

        async with asyncio.timeout(5):
            while True:
                try:
                    await pool.unary(PREDICTOR, "iris", live)
                    break
                except Unavailable:
                    await asyncio.sleep(0.02)
        await server.stop(None)

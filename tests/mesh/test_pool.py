"""The pool against real servers on free ports: names, and replicas that come and go."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest

from mesh.errors import ModelNotFound, NotFound, Unavailable
from mesh.oip.open_inference_pb2_grpc import add_GRPCInferenceServiceServicer_to_server
from mesh.pool import EndpointPool
from mesh.testing import eventually
from mesh.v1.registry_pb2 import SERVICE_KIND_TRANSFORMER
from tests.mesh.pool_rig import (
    PREDICTOR,
    Answering,
    Source,
    free_port_address,
    live,
    pool_over,
    predictor,
    serving,
    view_of,
)


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

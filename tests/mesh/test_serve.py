"""A server of the mesh through real channels: health, reflection, errors, context, cancel, and a graceful end."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import urllib.request
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from mesh import context
from mesh.channel import open_channel, to_mesh_error
from mesh.errors import InvalidInput, MessageTooLarge, Overloaded
from mesh.serve import MeshServer, PortTaken, advertised_host, spare_garbage_collection
from mesh.settings import ServiceSettings
from mesh.testing import serve_in_process
from mesh.v1 import language_model_pb2 as pb
from mesh.v1 import language_model_pb2_grpc as pb_grpc


class FakeLanguageModel(pb_grpc.LanguageModelServicer):
    """Answers by the prompt's text; remembers what it saw."""

    def __init__(self) -> None:
        self.seen: list[context.RequestContext | None] = []
        self.cancelled = asyncio.Event()

    async def Generate(self, request: pb.GenerateRequest, context: Any) -> AsyncIterator[pb.GenerateResponse]:
        yield pb.GenerateResponse(text="one")
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled.set()

    async def Tokenize(self, request: pb.TokenizeRequest, servicer_context: Any) -> pb.TokenizeResponse:
        self.seen.append(context.current())
        match request.text:
            case "bad":
                raise InvalidInput("text: must be good")
            case "bug":
                raise ZeroDivisionError("secret path /etc")
            case "full":
                raise Overloaded("the queue is full", retry_after_s=3)
            case "inner cancel":
                raise asyncio.CancelledError
        return pb.TokenizeResponse(token_ids=[1])


@pytest.fixture
def servicer() -> FakeLanguageModel:
    return FakeLanguageModel()


@pytest.mark.parametrize(
    ("text", "code", "sentence"),
    [
        ("bad", grpc.StatusCode.INVALID_ARGUMENT, "text: must be good"),
        ("full", grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full"),
        ("inner cancel", grpc.StatusCode.CANCELLED, "the request was cancelled on its way"),
        ("bug", grpc.StatusCode.INTERNAL, "internal error; the logs have it under request id r-1"),
    ],
)
async def test_exception_becomes_status(
    servicer: FakeLanguageModel, text: str, code: grpc.StatusCode, sentence: str
) -> None:
    async with serve_in_process((pb_grpc.add_LanguageModelServicer_to_server, servicer)) as channel:
        with pytest.raises(grpc.aio.AioRpcError) as failure:
            await pb_grpc.LanguageModelStub(channel).Tokenize(
                pb.TokenizeRequest(text=text), metadata=(("x-request-id", "r-1"),), timeout=5
            )

    assert (failure.value.code(), failure.value.details()) == (code, sentence)


async def test_request_id_deadline_tenant_and_priority_reach_the_next_hop(servicer: FakeLanguageModel) -> None:
    async with serve_in_process((pb_grpc.add_LanguageModelServicer_to_server, servicer)) as channel:
        stub = pb_grpc.LanguageModelStub(channel)
        now = asyncio.get_running_loop().time()
        with context.bind(context.RequestContext("abc", deadline=now + 7, tenant="t-1", priority=-5)):
            await stub.Tokenize(pb.TokenizeRequest(text="x"))
        await stub.Tokenize(pb.TokenizeRequest(text="x"))

    with_context, without = servicer.seen
    assert with_context is not None
    assert without is not None
    assert with_context.request_id == "abc"
    assert with_context.deadline is not None
    assert now + 5 < with_context.deadline <= now + 7.1
    assert (with_context.tenant, with_context.priority) == ("t-1", -5)
    assert without.request_id not in ("", "abc")
    assert (without.tenant, without.priority) == ("", 0)
    assert without.deadline is None


async def test_client_cancel_ends_the_handler(servicer: FakeLanguageModel) -> None:
    async with serve_in_process((pb_grpc.add_LanguageModelServicer_to_server, servicer)) as channel:
        call = pb_grpc.LanguageModelStub(channel).Generate(pb.GenerateRequest(text="x"))
        async for _ in call:
            break
        call.cancel()
        await asyncio.wait_for(servicer.cancelled.wait(), 5)


async def test_message_above_the_limit_is_refused_and_the_connection_goes_on(servicer: FakeLanguageModel) -> None:
    async with running_server(servicer, max_message_bytes=1 << 20) as (server, _):
        async with open_channel(server.address) as channel:
            stub = pb_grpc.LanguageModelStub(channel)
            with pytest.raises(grpc.aio.AioRpcError) as failure:
                await stub.Tokenize(pb.TokenizeRequest(text="x" * (2 << 20)), timeout=5)
            answer = await stub.Tokenize(pb.TokenizeRequest(text="x"), timeout=5)

    assert failure.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert isinstance(to_mesh_error(failure.value), MessageTooLarge)
    assert list(answer.token_ids) == [1]


class running_server:
    """A MeshServer with `servicer`, and the task that serves it until `request_stop()`."""

    def __init__(self, servicer: FakeLanguageModel, **overrides: Any) -> None:
        settings = ServiceSettings(**{"drain_s": 0.0, "grace_s": 5.0, **overrides})
        self.server = MeshServer(settings, name="test")
        self.server.add(pb_grpc.add_LanguageModelServicer_to_server, servicer, "mesh.v1.LanguageModel")

    async def __aenter__(self) -> tuple[MeshServer, asyncio.Task[None]]:
        await self.server.start()
        self.task = asyncio.create_task(self.server.serve_until_terminated())
        return self.server, self.task

    async def __aexit__(self, *_: object) -> None:
        self.server.request_stop()
        await asyncio.wait_for(self.task, 10)


async def test_health_reflection_metrics_and_ready_file(servicer: FakeLanguageModel, tmp_path: Path) -> None:
    async with running_server(servicer, ready_file=tmp_path / "ready.json") as (server, _):
        async with open_channel(server.address) as channel:
            health = health_pb2_grpc.HealthStub(channel)
            statuses = [
                (await health.Check(health_pb2.HealthCheckRequest(service=name))).status
                for name in ("", "mesh.v1.LanguageModel")
            ]
            with pytest.raises(grpc.aio.AioRpcError) as unknown:
                await health.Check(health_pb2.HealthCheckRequest(service="nobody"))
            listing = reflection_pb2.ServerReflectionRequest(list_services="")
            answers = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(iter([listing]))
            names = [s.name async for answer in answers for s in answer.list_services_response.service]
        scrape = await asyncio.to_thread(_get, f"http://{server.metrics_address}/metrics")
        healthz = await asyncio.to_thread(_get, f"http://{server.metrics_address}/healthz")
        ready = json.loads((tmp_path / "ready.json").read_text())

    assert statuses == [health_pb2.HealthCheckResponse.SERVING] * 2
    assert unknown.value.code() is grpc.StatusCode.NOT_FOUND
    assert {"mesh.v1.LanguageModel", "grpc.health.v1.Health"} <= set(names)
    assert 'meshserve_rpc_handled_total{code="OK",method="/grpc.health.v1.Health/Check"}' in scrape
    assert healthz == "ok\n"
    assert ready["grpc_address"] == server.address


def _get(url: str) -> str:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return str(answer.read().decode())


async def test_drain_says_not_serving_first_and_lets_running_streams_finish(servicer: FakeLanguageModel) -> None:
    order: list[str] = []
    draining = asyncio.Event()

    async def withdraw() -> None:
        order.append("withdraw")
        draining.set()

    async def close_engine() -> None:
        order.append("close")

    async with running_server(servicer, drain_s=1.0) as (server, task):
        server.on_drain(withdraw)
        server.on_close(close_engine)
        async with open_channel(server.address) as channel:
            stream = pb_grpc.LanguageModelStub(channel).Generate(pb.GenerateRequest(text="x"))
            async for _ in stream:
                break
            server.request_stop()
            await asyncio.wait_for(draining.wait(), 5)
            health = await health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert not task.done()
            stream.cancel()
            await asyncio.wait_for(task, 10)

    assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING
    assert order == ["withdraw", "close"]


async def test_health_watchers_do_not_hold_up_the_end(servicer: FakeLanguageModel) -> None:
    async with running_server(servicer, grace_s=60.0) as (server, task), open_channel(server.address) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        statuses = [(await watch.read()).status]
        server.request_stop()
        statuses += [answer.status async for answer in watch]
        await asyncio.wait_for(task, 10)

    serving = health_pb2.HealthCheckResponse.ServingStatus
    assert statuses == [serving.SERVING, serving.NOT_SERVING]


@pytest.mark.parametrize(
    ("host", "advertise_host", "expected"),
    [
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", "predictor.example", "predictor.example"),
        ("0.0.0.0", "", socket.gethostname()),
        ("0.0.0.0", "10.1.2.3", "10.1.2.3"),
    ],
)
def test_service_on_all_addresses_is_known_by_the_machines_name(host: str, advertise_host: str, expected: str) -> None:
    assert advertised_host(ServiceSettings(host=host, advertise_host=advertise_host)) == expected


@pytest.mark.parametrize("field", ["grpc_port", "metrics_port"])
async def test_taken_port_is_one_sentence_that_names_the_flag(servicer: FakeLanguageModel, field: str) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]

        server = MeshServer(ServiceSettings(**{field: port}), name="test")
        with pytest.raises(PortTaken) as failure:
            await server.start()
        await server.close()

    assert f"127.0.0.1:{port}" in failure.value.message
    assert f"--{field.replace('_', '-')}" in failure.value.message


def test_the_start_s_objects_are_no_longer_looked_at() -> None:
    thresholds, num_frozen = gc.get_threshold(), gc.get_freeze_count()
    gc.set_threshold(700, 10, 10)
    started: list[list[int]] = [[] for _ in range(1000)]
    try:
        spare_garbage_collection()

        assert gc.get_freeze_count() >= num_frozen + len(started)
        assert gc.get_threshold()[0] > 700
    finally:
        gc.unfreeze()
        gc.set_threshold(*thresholds)

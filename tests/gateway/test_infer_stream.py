"""ModelStreamInfer through the gateway: routed message by message, and the stream outlives bad ones."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import grpc
import grpc.aio
import pytest

from mesh.infer_stream import MAX_MODELS
from mesh.oip import open_inference_pb2 as oip
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from tests.gateway.conftest import Door
from tests.gateway.test_passthrough import infer_request

METHOD = "/inference.GRPCInferenceService/ModelStreamInfer"


async def each(*requests: oip.ModelInferRequest) -> AsyncIterator[oip.ModelInferRequest]:
    for request in requests:
        yield request


async def answers_to(door: Door, *requests: oip.ModelInferRequest) -> list[oip.ModelStreamInferResponse]:
    stream = GRPCInferenceServiceStub(door.channel).ModelStreamInfer(each(*requests), timeout=10)
    return [answer async for answer in stream]


async def test_answers_of_one_model_keep_their_order(door: Door) -> None:
    answers = await answers_to(door, *(infer_request(id=str(number)) for number in range(100)))

    assert [answer.infer_response.id for answer in answers] == [str(number) for number in range(100)]


async def test_messages_go_to_the_model_that_each_names(door: Door) -> None:
    answers = await answers_to(door, infer_request("echo", id="1"), infer_request("chat", id="2"))

    assert {(answer.infer_response.model_name, answer.infer_response.id) for answer in answers} == {
        ("echo", "1"),
        ("chat", "2"),
    }


async def test_bad_message_is_answered_and_the_stream_goes_on(door: Door) -> None:
    answers = await answers_to(door, infer_request(id="1"), infer_request("nobody", id="2"), infer_request(id="3"))

    by_id = {answer.infer_response.id: answer for answer in answers}
    assert set(by_id) == {"1", "2", "3"}
    assert "'nobody' is not deployed" in by_id["2"].error_message
    assert not by_id["3"].error_message


async def test_malformed_message_is_answered_and_the_stream_goes_on(door: Door) -> None:
    async def requests() -> AsyncIterator[bytes]:
        yield b"\xff\xff"
        yield infer_request(id="2").SerializeToString()

    stream = door.channel.stream_stream(METHOD)(requests(), timeout=10)
    answers = [oip.ModelStreamInferResponse.FromString(answer) async for answer in stream]

    assert sorted(bool(answer.error_message) for answer in answers) == [False, True]


async def test_lost_replica_ends_the_stream_with_its_error(door: Door) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await answers_to(door, infer_request(id="1"), infer_request(id="die"), infer_request(id="3"))

    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_stream_without_messages_just_ends(door: Door) -> None:
    assert await answers_to(door) == []


async def test_number_of_models_is_bounded_by_what_is_deployed(door: Door) -> None:
    answers = await answers_to(door, *(infer_request(f"m{number}") for number in range(MAX_MODELS + 9)))

    assert all("not deployed" in answer.error_message for answer in answers)
    assert len(answers) == MAX_MODELS + 9


async def test_client_that_cancels_ends_the_stream_behind(door: Door) -> None:
    is_over = asyncio.Event()

    async def requests() -> AsyncIterator[oip.ModelInferRequest]:
        yield infer_request(id="1")
        await is_over.wait()

    stream = GRPCInferenceServiceStub(door.channel).ModelStreamInfer(requests(), timeout=30)
    await anext(aiter(stream))
    stream.cancel()
    is_over.set()

    (record,) = await door.records()
    assert record["status"] == "CANCELLED"


async def test_stream_leaves_one_record(door: Door) -> None:
    await answers_to(door, infer_request(id="1"))

    (record,) = await door.records()
    shape = [{"name": "input", "datatype": "FP64", "shape": [1]}]
    assert (record["deployment"], record["model"]["version"]) == ("echo", "1")
    assert {"id": "1", "inputs": shape, "outputs": None} in record["tensor_calls"]
    assert {"id": None, "inputs": None, "outputs": shape} in record["tensor_calls"]

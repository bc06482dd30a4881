"""The gRPC front: bytes go through as they are, with the caller's id, trace and deadline."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import pytest

from mesh.oip import open_inference_pb2 as oip
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.language_model_pb2_grpc import LanguageModelStub
from tests.gateway.conftest import Door, open_door

INFER = "/inference.GRPCInferenceService/ModelInfer"


def infer_request(name: str = "echo", value: float = 1.5, **fields: str) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(model_name=name, **fields)
    tensor = request.inputs.add(name="input", datatype="FP64", shape=[1])
    tensor.contents.fp64_contents.append(value)
    return request


async def status_of(call: grpc.aio.UnaryUnaryCall) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await call
    return raised.value.code(), raised.value.details() or ""


async def test_infer_goes_there_and_back(door: Door) -> None:
    response = await GRPCInferenceServiceStub(door.channel).ModelInfer(infer_request(id="r-1"), timeout=5)

    assert (response.id, response.outputs[0].contents.fp64_contents) == ("r-1", [1.5])
    assert door.inference.requests == [infer_request(id="r-1")]


async def test_fields_that_this_build_does_not_know_survive(door: Door) -> None:
    unknown = b"\xfa\x3e\x03new"  # field 1007, which no version of the protocol has

    await door.channel.unary_unary(INFER)(infer_request().SerializeToString() + unknown, timeout=5)

    assert unknown in door.inference.requests[0].SerializeToString()


async def test_sixteen_mebibytes_pass(door: Door) -> None:
    request = oip.ModelInferRequest(model_name="echo", raw_input_contents=[b"x" * (16 << 20)])
    request.inputs.add(name="input", datatype="UINT8", shape=[16 << 20])

    response = await GRPCInferenceServiceStub(door.channel).ModelInfer(request, timeout=20)

    assert len(response.raw_output_contents[0]) == 16 << 20
    (record,) = await door.records()
    assert record["tensor_calls"] == [{"id": None, "inputs": None, "outputs": None}]


async def test_model_metadata_and_config_pass(door: Door) -> None:
    stub = GRPCInferenceServiceStub(door.channel)

    assert (await stub.ModelMetadata(oip.ModelMetadataRequest(name="echo"), timeout=5)).platform == "fake"
    assert (await stub.ModelConfig(oip.ModelConfigRequest(name="echo"), timeout=5)).config.backend == "fake"


async def test_language_model_passes(door: Door) -> None:
    stub = LanguageModelStub(door.channel)

    messages = [one async for one in stub.Generate(lm.GenerateRequest(model_name="chat", text="hi"), timeout=5)]

    assert "".join(message.text for message in messages) == "Hello wörld!"
    assert messages[0].start.seed == 42
    assert messages[-1].finish_reason == lm.FINISH_REASON_STOP
    assert list((await stub.Tokenize(lm.TokenizeRequest(model_name="chat"), timeout=5)).token_ids) == [1, 2, 3, 4, 5]
    assert (await stub.Detokenize(lm.DetokenizeRequest(model_name="chat", token_ids=[7, 8]), timeout=5)).text == "7 8"
    assert (await stub.Score(lm.ScoreRequest(model_name="chat"), timeout=5)).model_version == "1"
    assert (await stub.DescribeModel(lm.DescribeModelRequest(model_name="chat"), timeout=5)).vocab_size == 9


async def test_id_trace_and_deadline_travel(door: Door) -> None:
    trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    call = LanguageModelStub(door.channel).Generate(
        lm.GenerateRequest(model_name="chat", text="hi"),
        metadata=(("x-request-id", "r-77"), ("traceparent", trace)),
        timeout=5,
    )
    async for _ in call:
        pass

    seen = door.model.metadata[0]
    assert seen["x-request-id"] == "r-77"
    assert seen["traceparent"].split("-")[1] == trace.split("-")[1]
    assert door.model.deadlines[0] is not None
    assert door.model.deadlines[0] < 5.5


async def test_request_without_a_deadline_gets_the_gateways(tmp_path: Path) -> None:
    async with open_door(tmp_path, request_timeout_s=3) as door:
        async for _ in LanguageModelStub(door.channel).Generate(lm.GenerateRequest(model_name="chat", text="hi")):
            pass

        assert door.model.deadlines[0] is not None
        assert door.model.deadlines[0] < 3.5


async def test_deadline_of_the_client_ends_the_call(door: Door) -> None:
    stream = LanguageModelStub(door.channel).Generate(lm.GenerateRequest(model_name="chat", text="waits"), timeout=0.3)

    with pytest.raises(grpc.aio.AioRpcError) as raised:
        async for _ in stream:
            pass

    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(5):
        await door.model.cancelled.wait()


async def test_client_that_cancels_reaches_the_replica(door: Door) -> None:
    stream = LanguageModelStub(door.channel).Generate(lm.GenerateRequest(model_name="chat", text="waits"), timeout=30)
    await anext(aiter(stream))

    stream.cancel()

    async with asyncio.timeout(5):
        await door.model.cancelled.wait()
    (record,) = await door.records()
    assert record["status"] == "CANCELLED"


async def test_outcomes_of_the_contract(door: Door) -> None:
    stub = GRPCInferenceServiceStub(door.channel)

    assert (await status_of(stub.ModelInfer(infer_request("nobody"), timeout=5)))[0] is grpc.StatusCode.NOT_FOUND
    version = await status_of(stub.ModelInfer(infer_request(model_version="9"), timeout=5))
    assert version == (grpc.StatusCode.NOT_FOUND, "model 'echo' has no version '9'")
    assert (await status_of(stub.ModelInfer(infer_request("absent"), timeout=5)))[0] is grpc.StatusCode.UNAVAILABLE
    assert (await status_of(stub.ModelInfer(infer_request(""), timeout=5)))[0] is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xff\xff",
        b"\x0a\x02\xff\xfe",
        b"\x0a\x04echo\x2a\x02\xff\xff",  # the outside is fine, the tensor inside is not
        b"\x0a" + b"\xff" * 9,
        b"\x20\x01" * 100_000,
    ],
)
async def test_malformed_bytes_are_an_invalid_argument_and_the_next_call_works(door: Door, data: bytes) -> None:
    code, _ = await status_of(door.channel.unary_unary(INFER)(data, timeout=5))

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    await GRPCInferenceServiceStub(door.channel).ModelInfer(infer_request(), timeout=5)


async def test_each_prediction_leaves_a_record(door: Door) -> None:
    trace = ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    await GRPCInferenceServiceStub(door.channel).ModelInfer(
        infer_request(id="i"), metadata=(("x-request-id", "one"), trace), timeout=5
    )
    request = lm.GenerateRequest(model_name="chat", text="hi", sampling=lm.SamplingParameters(seed=9))
    async for _ in LanguageModelStub(door.channel).Generate(request, metadata=(("x-request-id", "two"),), timeout=5):
        pass
    await GRPCInferenceServiceStub(door.channel).ModelMetadata(oip.ModelMetadataRequest(name="echo"), timeout=5)

    infer, generate = await door.records(2)
    shape = [{"name": "input", "datatype": "FP64", "shape": [1]}]
    assert infer["request_id"] == "one"
    assert infer["trace_id"] == "0af7651916cd43dd8448eb211c80319c"
    assert infer["model"] == {"name": "echo", "version": "1", "digest": None}
    assert infer["tensor_calls"] == [{"id": "i", "inputs": shape, "outputs": shape}]
    assert (generate["request_id"], generate["output"]["text"]) == ("two", "Hello wörld!")
    assert generate["sampling"] == {"seed": 9}
    assert generate["timings"]["first_token_s"] > 0


async def test_failed_prediction_leaves_a_record_too(door: Door) -> None:
    await status_of(GRPCInferenceServiceStub(door.channel).ModelInfer(infer_request("nobody"), timeout=5))

    (record,) = await door.records()
    assert (record["status"], record["deployment"]) == ("NOT_FOUND", None)
    assert "nobody" in record["error"]

"""The Open Inference Protocol through the transformer: bytes pass, errors keep their words, streams go on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest

from mesh.errors import InvalidInput
from mesh.oip import open_inference_pb2 as oip
from mesh.oip.open_inference_pb2_grpc import GRPCInferenceServiceStub
from transformer.infer_proxy import model_name_of


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_infer_passes_with_what_this_side_does_not_know(rig: Any) -> None:
    request = oip.ModelInferRequest(model_name="llm", id="7", raw_input_contents=[b"\x00" * 100_000])
    unknown_field = b"\xa2\x06\x05later"  # field 100: of a protocol that is newer than ours
    infer = rig.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")

    answer = oip.ModelInferResponse.FromString(await infer(request.SerializeToString() + unknown_field))

    assert rig.predictor.requests[0].SerializeToString() == request.SerializeToString() + unknown_field
    assert (answer.id, answer.raw_output_contents) == ("7", [b"\x00" * 100_000])


async def test_models_answer_for_themselves(rig: Any) -> None:
    stub = GRPCInferenceServiceStub(rig.channel)

    assert (await stub.ModelMetadata(oip.ModelMetadataRequest(name="llm"))).platform == "echo"
    assert (await stub.ModelConfig(oip.ModelConfigRequest(name="plain"))).config.backend == "echo"
    assert (await stub.ModelReady(oip.ModelReadyRequest(name="llm"))).ready


@pytest.mark.parametrize("name", ["ghost", "away", ""])
async def test_a_model_that_is_unknown_or_away_is_not_ready(rig: Any, name: str) -> None:
    assert not (await GRPCInferenceServiceStub(rig.channel).ModelReady(oip.ModelReadyRequest(name=name))).ready


async def test_the_service_answers_for_itself(rig: Any) -> None:
    stub = GRPCInferenceServiceStub(rig.channel)

    assert (await stub.ServerLive(oip.ServerLiveRequest())).live
    assert (await stub.ServerReady(oip.ServerReadyRequest())).ready
    metadata = await stub.ServerMetadata(oip.ServerMetadataRequest())
    assert (metadata.name, metadata.version) == ("meshserve-transformer", "7")
    index = await stub.RepositoryIndex(oip.RepositoryIndexRequest())
    assert {entry.name: entry.state for entry in index.models} == {
        "llm": "READY",
        "plain": "READY",
        "wrong": "READY",
        "away": "UNAVAILABLE",
    }


@pytest.mark.parametrize(
    ("call", "code", "sentence"),
    [
        (
            lambda stub: stub.ModelInfer(oip.ModelInferRequest(model_name="ghost")),
            grpc.StatusCode.NOT_FOUND,
            "model 'ghost' is not deployed",
        ),
        (
            lambda stub: stub.ModelInfer(oip.ModelInferRequest(model_name="away")),
            grpc.StatusCode.UNAVAILABLE,
            "no ready predictor for 'away'",
        ),
        (
            lambda stub: stub.ModelMetadata(oip.ModelMetadataRequest(name="llm", version="9")),
            grpc.StatusCode.NOT_FOUND,
            "model 'llm' has no version '9'",
        ),
        (
            lambda stub: stub.RepositoryModelLoad(oip.RepositoryModelLoadRequest(model_name="llm")),
            grpc.StatusCode.UNIMPLEMENTED,
            "RepositoryModelLoad is not served by the transformer",
        ),
    ],
)
async def test_errors_keep_their_status_and_words(rig: Any, call: Any, code: grpc.StatusCode, sentence: str) -> None:
    error = await failure(call(GRPCInferenceServiceStub(rig.channel)))

    assert error.code() is code
    assert sentence in (error.details() or "")


async def test_bytes_that_are_no_message_are_an_error_of_the_caller(rig: Any) -> None:
    error = await failure(rig.channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(b"\xff\xff\xff"))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_stream_goes_on_after_a_request_that_fails(rig: Any) -> None:
    async def requests() -> AsyncIterator[oip.ModelInferRequest]:
        for model_name, id_ in (("llm", "1"), ("ghost", "2"), ("llm", "break"), ("plain", "4")):
            yield oip.ModelInferRequest(model_name=model_name, id=id_)

    stub = GRPCInferenceServiceStub(rig.channel)

    answers = [answer async for answer in stub.ModelStreamInfer(requests())]

    assert [answer.infer_response.id for answer in answers] == ["1.0", "1.1", "2", "break", "4.0", "4.1"]
    assert [bool(answer.error_message) for answer in answers] == [False, False, True, True, False, False]
    assert "model 'ghost' is not deployed" in answers[2].error_message
    assert answers[3].error_message == "the model broke"


def test_the_model_is_found_wherever_it_stands() -> None:
    head = oip.ModelInferRequest(id="1", raw_input_contents=[b"x" * 1000]).SerializeToString()
    name = oip.ModelInferRequest(model_name="late").SerializeToString()

    assert model_name_of(head + name) == "late"
    with pytest.raises(InvalidInput, match="not a protobuf message"):
        model_name_of(b"\x0a\x05ab")

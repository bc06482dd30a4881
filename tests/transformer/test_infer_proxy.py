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
from transformer.infer_proxy import model_of


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


async def answers_to(rig: Any, *requests: tuple[str, str]) -> list[oip.ModelStreamInferResponse]:
    """To requests of (model name, id), on one stream."""

    async def messages() -> AsyncIterator[oip.ModelInferRequest]:
        for model_name, id_ in requests:
            yield oip.ModelInferRequest(model_name=model_name, id=id_)

    stub = GRPCInferenceServiceStub(rig.channel)
    return [answer async for answer in stub.ModelStreamInfer(messages(), timeout=10)]


async def test_a_stream_goes_on_after_a_request_that_has_nowhere_to_go(rig: Any) -> None:
    answers = await answers_to(rig, ("llm", "1"), ("ghost", "2"), ("away", "3"), ("llm", "4"), ("plain", "5"))

    failed = {answer.infer_response.id: answer.error_message for answer in answers if answer.error_message}
    assert failed.keys() == {"2", "3"}
    assert "model 'ghost' is not deployed" in failed["2"]
    assert "no ready predictor for 'away'" in failed["3"]
    given = [answer.infer_response.id for answer in answers if not answer.error_message]
    assert [id_ for id_ in given if id_ < "5"] == ["1.0", "1.1", "4.0", "4.1"]
    assert sorted(given) == ["1.0", "1.1", "4.0", "4.1", "5.0", "5.1"]


async def test_requests_for_one_model_share_one_stream(rig: Any) -> None:
    answers = await answers_to(rig, *(("llm", str(number)) for number in range(50)))

    assert [answer.infer_response.id for answer in answers[::2]] == [f"{number}.0" for number in range(50)]
    assert rig.predictor.num_streams == 1


async def test_a_predictor_that_breaks_a_stream_ends_it_with_its_error(rig: Any) -> None:
    with pytest.raises(grpc.aio.AioRpcError, match="the model broke"):
        await answers_to(rig, ("llm", "1"), ("llm", "die"), ("llm", "3"))


def test_the_model_is_found_wherever_it_stands() -> None:
    head = oip.ModelInferRequest(id="1", raw_input_contents=[b"x" * 1000]).SerializeToString()
    name = oip.ModelInferRequest(model_name="late", model_version="2").SerializeToString()

    assert model_of(head + name) == ("late", "2")
    assert model_of(head) == ("", "")
    with pytest.raises(InvalidInput, match="not a protobuf message"):
        model_of(b"\x0a\x05ab")

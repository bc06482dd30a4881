"""What a route writes into requests and answers, as bytes and as messages."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import wire
from gateway.stamping import all_as_asked, all_stamped, all_started_as_asked, as_asked, stamp, stamped
from gateway.traffic import Arm, Route
from mesh.generation_stream import Answer
from mesh.oip import open_inference_pb2 as oip
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.registry_pb2 import Deployment

OIP = "/inference.GRPCInferenceService/"
LANGUAGE_MODEL = "/mesh.v1.LanguageModel/"
IRIS = Deployment(name="iris")
CANARY = Route(IRIS, "iris", "2", Arm.CANARY)
FALLBACK = Route(Deployment(name="simple"), "iris", "7", Arm.FALLBACK)


def infer(**fields: str) -> oip.ModelInferRequest:
    request = oip.ModelInferRequest(**{"model_name": "iris", "id": "r", **fields}, raw_input_contents=[b"x" * 100])
    request.inputs.add(name="input", datatype="UINT8", shape=[100])
    return request


@pytest.mark.parametrize("route", [Route(IRIS, "iris"), Route(IRIS, "iris", "3", Arm.NAMED)], ids=["plain", "named"])
def test_request_that_names_what_it_gets_is_left_alone(route: Route) -> None:
    content = infer(model_version="3").SerializeToString()

    assert stamped(content, route) is content
    request = infer(model_version="3")
    stamp(request, route)
    assert request == infer(model_version="3")


@pytest.mark.parametrize(("route", "name"), [(CANARY, "iris"), (FALLBACK, "simple")], ids=["canary", "fallback"])
def test_request_names_model_and_version_of_the_route(route: Route, name: str) -> None:
    expected = infer(model_name=name, model_version=route.version)

    assert oip.ModelInferRequest.FromString(stamped(infer().SerializeToString(), route)) == expected
    request = infer()
    stamp(request, route)
    assert request == expected


@given(text=st.text(max_size=300), path=st.lists(st.integers(1, 2**29 - 1), min_size=1, max_size=3))
def test_string_field_is_what_the_walk_finds(text: str, path: list[int]) -> None:
    content = wire.string_field(path, text)

    for number in path:
        [(found, _, start, end)] = wire.fields(content)
        assert (found, end) == (number, len(content))
        content = content[start:end]
    assert content.decode() == text


def config(name: str) -> oip.ModelConfigResponse:
    return oip.ModelConfigResponse(config=oip.ModelConfig(name=name, backend="b", max_batch_size=4))


@pytest.mark.parametrize(
    ("method", "answer", "asked"),
    [
        (OIP + "ModelInfer", *[oip.ModelInferResponse(model_name=n, id="1") for n in ("simple", "iris")]),
        (OIP + "ModelMetadata", *[oip.ModelMetadataResponse(name=n, platform="p") for n in ("simple", "iris")]),
        (OIP + "ModelConfig", config("simple"), config("iris")),
        (
            OIP + "ModelStreamInfer",
            *[
                oip.ModelStreamInferResponse(infer_response=oip.ModelInferResponse(model_name=n, id="1"))
                for n in ("simple", "iris")
            ],
        ),
        (OIP + "ModelStreamInfer", *[oip.ModelStreamInferResponse(error_message="no")] * 2),
        (LANGUAGE_MODEL + "Score", *[lm.ScoreResponse(model_name=n) for n in ("simple", "iris")]),
        (LANGUAGE_MODEL + "Tokenize", *[lm.TokenizeResponse(token_ids=[1, 2])] * 2),
        (LANGUAGE_MODEL + "DescribeModel", *[lm.DescribeModelResponse(model_name=n) for n in ("simple", "iris")]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_answer_of_a_fallback_bears_the_asked_name(method: str, answer: object, asked: object) -> None:
    content = answer.SerializeToString()  # type: ignore[attr-defined]

    assert type(answer).FromString(as_asked(method, content, FALLBACK)) == asked  # type: ignore[attr-defined]
    assert as_asked(method, content, CANARY) is content


async def test_streams_are_changed_message_by_message_and_closed() -> None:
    closed: list[str] = []

    async def requests() -> AsyncIterator[bytes]:
        for number in range(3):
            yield infer(id=str(number)).SerializeToString()

    async def answers() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield oip.ModelInferResponse(model_name="simple").SerializeToString()
        finally:
            closed.append("bytes")

    async def generation() -> AsyncGenerator[Answer, None]:
        try:
            for message in (lm.GenerateResponse(start=lm.GenerationStart(model_name="simple")), lm.GenerateResponse()):
                yield message, message.SerializeToString()
        finally:
            closed.append("messages")

    sent = [oip.ModelInferRequest.FromString(one) async for one in all_stamped(requests(), CANARY)]
    assert [(one.id, one.model_version) for one in sent] == [("0", "2"), ("1", "2"), ("2", "2")]
    renamed = all_as_asked(OIP + "ModelInfer", answers(), FALLBACK)
    assert oip.ModelInferResponse.FromString(await anext(renamed)).model_name == "iris"
    await renamed.aclose()
    started = [one async for one in all_started_as_asked(generation(), FALLBACK)]
    assert [(message.start.model_name, content) for message, content in started] == [("iris", None), ("", b"")]
    assert closed == ["bytes", "messages"]
    plain = answers()
    assert all_as_asked(OIP + "ModelInfer", plain, CANARY) is plain

"""Messages become prompts on their way to the predictor and the explainer; everything else passes unchanged."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from mesh.v1 import explain_pb2
from mesh.v1 import language_model_pb2 as lm
from mesh.v1.explain_pb2_grpc import ExplainServiceStub
from mesh.v1.language_model_pb2_grpc import LanguageModelStub

SYSTEM = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"


def chat(*contents: str, role: str = "user") -> lm.ChatMessages:
    return lm.ChatMessages(messages=[lm.ChatMessage(role=role, content=content) for content in contents])


def rendered(content: str) -> str:
    return f"{SYSTEM}<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        if hasattr(call, "__aiter__"):
            async for _ in call:
                pass
        else:
            await call
    return caught.value


async def test_generate_renders_messages_and_says_how(rig: Any) -> None:
    request = lm.GenerateRequest(model_name="llm", messages=chat("Hi"), sampling=lm.SamplingParameters(seed=4))

    responses = [response async for response in LanguageModelStub(rig.channel).Generate(request)]

    [seen] = rig.predictor.requests
    assert seen == lm.GenerateRequest(model_name="llm", text=rendered("Hi"), sampling=lm.SamplingParameters(seed=4))
    assert responses[0].start.rendered_prompt == rendered("Hi")
    assert responses[0].start.seed == 4
    assert "".join(response.text for response in responses) == "Hello"
    assert responses[-1].finish_reason == lm.FINISH_REASON_STOP


@pytest.mark.parametrize(
    "prompt", [{"text": "<|im_start|> as it is"}, {"token_ids": lm.TokenIds(ids=[1, 2])}], ids=["text", "token_ids"]
)
async def test_other_prompts_pass_unchanged(rig: Any, prompt: dict[str, Any]) -> None:
    request = lm.GenerateRequest(model_name="plain", priority=-3, cache_salt="s", continue_from=[7], **prompt)

    responses = [response async for response in LanguageModelStub(rig.channel).Generate(request)]

    assert rig.predictor.requests == [request]
    assert responses[0].start.rendered_prompt == ""
    assert rig.predictor.describe_calls == 0


async def test_score_renders_each_item_that_has_messages(rig: Any) -> None:
    request = lm.ScoreRequest(model_name="llm", priority=-1)
    request.items.add(messages=chat("Hi"), target_text="a")
    request.items.add(text="as it is", target_token_ids=lm.TokenIds(ids=[5]))
    request.items.add(messages=chat("Ho"), target_text="c")
    request.items.add(messages=chat("Hi"), target_text="d")

    await LanguageModelStub(rig.channel).Score(request)

    [seen] = rig.predictor.requests
    assert [item.text for item in seen.items] == [rendered("Hi"), "as it is", rendered("Ho"), rendered("Hi")]
    assert [item.target_text for item in seen.items] == ["a", "", "c", "d"]
    assert seen.priority == -1


async def test_tokenize_renders_messages(rig: Any) -> None:
    stub = LanguageModelStub(rig.channel)

    response = await stub.Tokenize(lm.TokenizeRequest(model_name="llm", messages=chat("Hi")))

    assert list(response.token_ids) == [len(rendered("Hi"))]


async def test_detokenize_passes_through(rig: Any) -> None:
    response = await LanguageModelStub(rig.channel).Detokenize(lm.DetokenizeRequest(model_name="llm", token_ids=[1, 2]))

    assert response.text == "[1, 2]"


async def test_describe_passes_through(rig: Any) -> None:
    response = await LanguageModelStub(rig.channel).DescribeModel(lm.DescribeModelRequest(model_name="llm"))

    assert response == rig.predictor.description


async def test_explain_marks_what_people_said(rig: Any) -> None:
    subject = explain_pb2.TextSubject(messages=chat("Who are you?"), target="SmolLM", max_tokens=5)

    await ExplainServiceStub(rig.channel).Explain(explain_pb2.ExplainRequest(model_name="llm", text=subject))

    [seen] = rig.explainer.requests
    parts = [(segment.text, segment.explainable) for segment in seen.text.rendered.segments]
    assert parts == [
        (SYSTEM + "<|im_start|>user\n", False),
        ("Who are you?", True),
        ("<|im_end|>\n<|im_start|>assistant\n", False),
    ]
    assert (seen.text.target, seen.text.max_tokens) == ("SmolLM", 5)


@pytest.mark.parametrize("subject", ["text", "infer"])
async def test_other_subjects_reach_the_explainer_unchanged(rig: Any, subject: str) -> None:
    request = explain_pb2.ExplainRequest(model_name="llm", method="shapley")
    if subject == "text":
        request.text.text = "as it is"
    else:
        request.infer.inputs.add(name="x", datatype="FP64", shape=[1, 1])

    response = await ExplainServiceStub(rig.channel).Explain(request)

    assert rig.explainer.requests == [request]
    assert response.method == "echo"


async def test_the_template_is_asked_for_once_until_another_artifact_answers(rig: Any) -> None:
    stub = LanguageModelStub(rig.channel)
    request = lm.GenerateRequest(model_name="llm", messages=chat("Hi"))
    for _ in range(3):
        [_ async for _ in stub.Generate(request)]
    assert rig.predictor.describe_calls == 1

    rig.predictor.answered_digest = "d2"
    [_ async for _ in stub.Generate(request)]
    rig.predictor.description.model_digest = "d2"
    [_ async for _ in stub.Generate(request)]
    [_ async for _ in stub.Generate(request)]

    assert rig.predictor.describe_calls == 2


async def test_a_changed_deployment_is_described_anew(rig: Any) -> None:
    stub = LanguageModelStub(rig.channel)
    await stub.Tokenize(lm.TokenizeRequest(model_name="llm", messages=chat("Hi")))

    rig.deployments["llm"].generation = 2
    await stub.Tokenize(lm.TokenizeRequest(model_name="llm", messages=chat("Hi")))

    assert rig.predictor.describe_calls == 2


async def test_rendering_is_measured(rig: Any) -> None:
    await LanguageModelStub(rig.channel).Tokenize(lm.TokenizeRequest(model_name="llm", messages=chat("Hi")))

    name = "meshserve_transformer_render_seconds_count"
    assert rig.metrics.get_sample_value(name, {"model_name": "llm"}) == 1


@pytest.mark.parametrize(
    ("model_name", "messages", "code", "sentence"),
    [
        ("ghost", chat("a"), grpc.StatusCode.NOT_FOUND, "model 'ghost' is not deployed"),
        ("plain", chat("a"), grpc.StatusCode.INVALID_ARGUMENT, "deployment 'plain' has no transformer step"),
        ("wrong", chat("a"), grpc.StatusCode.NOT_FOUND, "unknown transformer step 'magic'; known are: chat_template"),
        ("away", chat("a"), grpc.StatusCode.UNAVAILABLE, "no ready predictor for 'away'"),
        ("llm", chat(), grpc.StatusCode.INVALID_ARGUMENT, "messages is empty"),
        ("llm", chat("a", role="wizard"), grpc.StatusCode.INVALID_ARGUMENT, "messages[0].role is 'wizard'"),
    ],
)
async def test_what_is_wrong_is_named(
    rig: Any, model_name: str, messages: lm.ChatMessages, code: grpc.StatusCode, sentence: str
) -> None:
    request = lm.GenerateRequest(model_name=model_name, messages=messages)

    error = await failure(LanguageModelStub(rig.channel).Generate(request))

    assert error.code() is code
    assert sentence in (error.details() or "")
    assert rig.predictor.requests == []


async def test_a_wrong_message_of_a_score_item_is_named_with_its_item(rig: Any) -> None:
    request = lm.ScoreRequest(model_name="llm")
    request.items.add(text="fine", target_text="a")
    request.items.add(messages=chat("b", role="wizard"), target_text="b")

    error = await failure(LanguageModelStub(rig.channel).Score(request))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "items[1]: messages[0].role is 'wizard'" in (error.details() or "")


async def test_too_many_score_items_are_refused_before_any_is_rendered(rig: Any) -> None:
    request = lm.ScoreRequest(model_name="llm")
    for _ in range(1025):
        request.items.add(messages=chat("a"), target_text="a")

    error = await failure(LanguageModelStub(rig.channel).Score(request))

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "items has 1025 entries; at most 1024" in (error.details() or "")


async def test_a_model_without_a_template_takes_no_messages(rig: Any) -> None:
    rig.predictor.description.chat_template = ""

    error = await failure(
        LanguageModelStub(rig.channel).Generate(lm.GenerateRequest(model_name="llm", messages=chat("a")))
    )

    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "model 'llm' has no chat template" in (error.details() or "")


async def test_a_hostile_template_fails_its_request_only(rig: Any) -> None:
    stub = LanguageModelStub(rig.channel)
    rig.predictor.description.chat_template = (
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    )
    error = await failure(stub.Generate(lm.GenerateRequest(model_name="llm", messages=chat("a"))))
    assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "chat template of 'llm' does not finish within" in (error.details() or "")

    rig.predictor.description.chat_template = "{{ messages[0].content }}"
    rig.deployments["llm"].generation = 2
    await stub.Tokenize(lm.TokenizeRequest(model_name="llm", messages=chat("fine")))
    assert rig.predictor.requests[-1].text == "fine"


async def test_explain_without_an_explainer_is_not_found(rig: Any) -> None:
    request = explain_pb2.ExplainRequest(model_name="plain", text=explain_pb2.TextSubject(text="a"))

    error = await failure(ExplainServiceStub(rig.channel).Explain(request))

    assert (error.code(), error.details()) == (grpc.StatusCode.NOT_FOUND, "deployment 'plain' has no explainer")


async def test_a_cancelled_stream_is_cancelled_at_the_predictor(rig: Any) -> None:
    rig.predictor.hangs = True
    call = LanguageModelStub(rig.channel).Generate(lm.GenerateRequest(model_name="llm", messages=chat("Hi")))
    first = await call.read()
    assert first.start.rendered_prompt

    call.cancel()

    await asyncio.wait_for(rig.predictor.was_cancelled.wait(), 5)


async def test_deadline_and_request_id_travel_to_the_predictor(rig: Any) -> None:
    stub, request = LanguageModelStub(rig.channel), lm.GenerateRequest(model_name="llm", messages=chat("Hi"))
    # The first one starts the process that renders, which may take longer than the deadline that is looked at.
    assert [message async for message in stub.Generate(request, timeout=60)]
    rig.predictor.hangs = True

    error = await failure(stub.Generate(request, timeout=2, metadata=(("x-request-id", "r-17"),)))

    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await asyncio.wait_for(rig.predictor.was_cancelled.wait(), 5)
    # gRPC rounds what is left up; without the caller's deadline it would be 60.
    assert 0 < rig.predictor.timeouts_s[-1] < 3
    assert rig.predictor.metadata[-1]["x-request-id"] == "r-17"


async def test_a_call_without_a_deadline_gets_the_default(rig: Any) -> None:
    await LanguageModelStub(rig.channel).Tokenize(lm.TokenizeRequest(model_name="llm", text="a"))

    assert 0 < rig.predictor.timeouts_s[0] < 65
